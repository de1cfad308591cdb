"""The composition root: the settings and the broker of this process, made once at import.

Building them opens no connection. Everything here is read-only afterwards.
"""

from __future__ import annotations

from typing import Final

import dramatiq

from actors.settings import ApplicationSettings
from broker import StreamsBroker
from broker.settings import Settings
from middleware.stack import stack


def build_broker(settings: Settings) -> StreamsBroker:
    """The broker these settings describe, with the application's middleware; not connected yet."""
    return StreamsBroker(
        url=settings.redis_url,
        namespace=settings.queue_prefix,
        middleware=stack(),
        concurrency=settings.concurrency,
        limits=settings.limits,
        max_message_bytes=settings.max_message_bytes,
    )


settings: Final = Settings.load()
application: Final = ApplicationSettings.load(table=settings.application)
broker: Final = build_broker(settings)
dramatiq.set_broker(broker)
