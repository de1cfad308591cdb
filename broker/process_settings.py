"""The settings of a process, as against those of a queue."""

from __future__ import annotations

from typing import Literal

import msgspec


class LoggingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much a worker process logs, and in which shape."""

    #: The least level that is logged. Dramatiq's --verbose makes it debug.
    level: Literal["debug", "info", "warn", "error"] = "info"
    #: json: a line an event, for machines. console: for people. auto: console on a terminal.
    format: Literal["auto", "json", "console"] = "auto"
