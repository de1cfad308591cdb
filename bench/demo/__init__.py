"""The demo: real jobs through real workers on an embedded server, every effect verified."""
