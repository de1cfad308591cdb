"""The composition root: the settings and the broker of this process, made once at import.

Building them opens no connection. Everything here is read-only afterwards.
"""

from __future__ import annotations

from typing import Final

import dramatiq

from actors.notices import notice_channels
from actors.settings import ApplicationSettings
from broker import StreamsBroker
from broker.inline import InlineBroker
from broker.settings import Settings
from middleware.stack import protection, stack
from otel.sdk import Sdk, Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.stack import layers


def build_broker(settings: Settings) -> StreamsBroker:
    """The broker these settings describe, with the application's middleware; not connected yet.

    In inline mode it is an InlineBroker, without what is made for worker processes.
    """
    telemetry = layers(
        TelemetrySettings.load(settings.telemetry),
        _service(settings, "worker"),
        ExportSettings.load(),
    )
    channels = notice_channels(settings.notifications, application.smtp)
    inline = settings.mode == "inline"
    return (InlineBroker if inline else StreamsBroker)(
        url=settings.redis_url,
        namespace=settings.queue_prefix,
        middleware=[
            *telemetry.above,
            *stack(settings, channels, innermost=telemetry.below),
            *([] if inline else protection(settings)),
        ],
        concurrency=settings.concurrency,
        limits=settings.limits,
        depths=settings.depths,
        dead_letters=settings.dead_letters,
        retention=settings.retention,
        max_message_bytes=settings.max_message_bytes,
    )


def start_telemetry(role: str) -> Sdk:
    """Set OpenTelemetry's SDK up in a process that is no worker, after its fork if there is one.

    ``role`` is what it is called besides the namespace, as in ``web``. Call ``flush()`` of what
    this returns before the process ends.
    """
    return Sdk.set_up(
        _service(settings, role), TelemetrySettings.load(settings.telemetry), ExportSettings.load()
    )


def _service(settings: Settings, role: str) -> Service:
    return Service(settings.queue_prefix, role, settings.env)


settings: Final = Settings.load()
application: Final = ApplicationSettings.load(table=settings.application)
broker: Final = build_broker(settings)
dramatiq.set_broker(broker)
