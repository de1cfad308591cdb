"""An endpoint that a Prometheus scrapes, for those without a collector."""

from __future__ import annotations

import errno

from dramatiq.logging import get_logger
from prometheus_client import CollectorRegistry, start_http_server

from broker.errors import SettingsError
from otel.settings import PrometheusSettings


def serve(settings: PrometheusSettings) -> CollectorRegistry:
    """Open the endpoint; it shows what is in the registry.

    Each process of a host needs a port of its own, since each has metrics of its own: it takes
    the first one that is free. The log says which.

    Raises:
      SettingsError: none of the ports is free, or the host is none of this machine.
    """
    registry = CollectorRegistry()
    last = settings.port + settings.ports
    for port in range(settings.port, min(last, 65_536)):
        try:
            start_http_server(port, settings.host, registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            rule = f"can't be listened on ({error.strerror})"
            raise SettingsError("telemetry.prometheus.host", settings.host, rule) from error
        where = f"{settings.host}:{port}"
        get_logger(__name__).info("Metrics for Prometheus at http://%s/metrics", where)
        return registry
    rule = f"no port from {settings.port} to {last - 1} is free"
    raise SettingsError("telemetry.prometheus.port", settings.port, rule)
