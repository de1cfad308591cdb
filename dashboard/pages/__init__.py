"""The pages, a file a subject; each knows its own routes."""
