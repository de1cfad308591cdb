"""The web UI, on top of dramatiq-dashboard."""

from dashboard.access import Access, Role, User
from dashboard.application import Dashboard
from dashboard.middleware import make_wsgi_middleware

__all__ = ["Access", "Dashboard", "Role", "User", "make_wsgi_middleware"]
