"""Programs that run the whole: the demo and the benchmark."""
