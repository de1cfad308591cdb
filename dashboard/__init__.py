"""The web UI, on top of dramatiq-dashboard."""
