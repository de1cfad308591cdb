"""The middleware that brokers are measured with, by name."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from dramatiq.middleware import Middleware, default_middleware
from msgspec.structs import replace

from broker.settings import Settings
from middleware.stack import stack
from otel.sdk import Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.stack import layers

#: Dramatiq's own list, an empty one, Dramatiq's between telemetry, the application's whole list,
#: or one class of that alone.
Stack: TypeAlias = Literal["default", "none", "telemetry", "production"] | str

#: What an application in production sets: every body is sealed, every job is logged.
_ENVIRONMENT: Final = {
    "HEADRACE_ENV": "production",
    "HEADRACE_KEYS": "bench:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}


def build(name: Stack) -> list[Middleware] | None:
    """A new list; None is Dramatiq's default."""
    if name == "default":
        return None
    if name == "none":
        return []
    if name == "telemetry":
        service = Service("bench", "worker", "production")
        around = layers(TelemetrySettings(), service, ExportSettings.load())
        return [*around.above, *(made() for made in default_middleware), *around.below]
    whole = stack(_settings())
    return whole if name == "production" else [m for m in whole if type(m).__name__ == name]


def names() -> list[str]:
    """The classes of the application's list, in its order."""
    return [type(each).__name__ for each in stack(_settings())]


def _settings() -> Settings:
    loaded = Settings.load(_ENVIRONMENT)
    return replace(loaded, encryption=replace(loaded.encryption, default=True))
