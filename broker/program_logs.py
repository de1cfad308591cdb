"""The log lines of a program that is no worker: shaped by whoever shapes those of workers."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from broker.process_settings import LoggingSettings

#: The room above that shapes lines names what does it, which is given the settings.
SHAPES: Final = "headrace.logs"


def shape_logs(settings: LoggingSettings) -> None:
    """Give what this process logs and prints the shape of a worker's lines, until it exits."""
    for place in entry_points(group=SHAPES):
        place.load()(settings)
