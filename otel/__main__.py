"""`python -m otel`: reports the queues, and nothing else, until SIGTERM or Ctrl-C.

Workers report them too, while there are any. This one goes on when there are none, which is
when somebody should be told. However many run, one process of all reports.
"""

from __future__ import annotations

import signal
import sys
import threading

from opentelemetry import metrics

from broker import StreamsBroker
from broker.errors import HeadraceError
from broker.program_logs import shape_logs
from broker.settings import Settings
from otel import names
from otel.gauges import QueueGauges
from otel.sdk import Sdk, Service
from otel.settings import ExportSettings, TelemetrySettings


def main() -> int:
    """Run until a signal; the exit status, 1 for a wrong setting or nowhere to report to."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        settings = Settings.load()
        shape_logs(settings.logging)
        telemetry = TelemetrySettings.load(settings.telemetry)
        service = Service(settings.queue_prefix, "gauges", settings.env)
        sdk = Sdk.set_up(service, telemetry, ExportSettings.load())
    except HeadraceError as error:
        return _refuse(str(error))
    if not sdk.measures:
        return _refuse(
            "no metrics exporter: set OTEL_EXPORTER_OTLP_ENDPOINT or telemetry.prometheus"
        )
    broker = StreamsBroker(url=settings.redis_url, namespace=settings.queue_prefix, middleware=[])
    meter = metrics.get_meter(names.SCOPE, schema_url=names.SCHEMA_URL)
    gauges = QueueGauges(
        broker, meter, interval_ms=telemetry.gauge_interval, heartbeat=settings.heartbeat
    )
    gauges.start()
    stopped.wait()
    gauges.stop()
    return 0  # the SDK exports what is left when the interpreter exits


def _refuse(why: str) -> int:
    sys.stderr.write(f"otel: {why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
