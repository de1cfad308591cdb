"""The middleware that brokers are measured with, by name."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from dramatiq.middleware import Middleware, default_middleware
from msgspec.structs import replace

from broker.settings import Settings
from middleware.stack import stack
from otel.sdk import Service
from otel.settings import ExportSettings, TelemetrySettings
from otel.stack import Layers, layers

#: Dramatiq's own list, an empty one, the application's whole list, or one class of that alone.
Stack: TypeAlias = Literal["default", "none", "production"] | str

#: What an application in production sets: every body is sealed, every job is logged.
_ENVIRONMENT: Final = {
    "HEADRACE_ENV": "production",
    "HEADRACE_KEYS": "bench:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}


def build(name: Stack, *, telemetry: bool = False) -> list[Middleware] | None:
    """A new list, with telemetry around it or without; None is Dramatiq's default."""
    if name == "default" and not telemetry:
        return None
    around = _telemetry() if telemetry else Layers()
    return [*around.above, *_made(name, around.below)]


def _telemetry() -> Layers:
    service = Service("bench", "worker", "production")
    return layers(TelemetrySettings(), service, ExportSettings.load())


def _made(name: Stack, below: list[Middleware]) -> list[Middleware]:
    if name == "default":
        return [*(each() for each in default_middleware), *below]
    if name == "none":
        return below
    if name == "production":
        return stack(_settings(), innermost=below)
    return [*(each for each in stack(_settings()) if type(each).__name__ == name), *below]


def names() -> list[str]:
    """The classes of the application's list, in its order."""
    return [type(each).__name__ for each in stack(_settings())]


def _settings() -> Settings:
    loaded = Settings.load(_ENVIRONMENT)
    return replace(loaded, encryption=replace(loaded.encryption, default=True))
