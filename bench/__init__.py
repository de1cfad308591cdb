"""Programs that run the whole: the demo, and later the benchmarks."""
