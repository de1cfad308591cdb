"""One concern a file, each a dramatiq.Middleware."""
