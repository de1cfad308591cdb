"""Workflows made of actors, one module a flow."""
