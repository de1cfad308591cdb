"""The audit log: a line for every action and every payload that was revealed, refused ones too."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

#: The logger; whoever serves the dashboard says where it goes.
AUDIT: Final = "headrace.dashboard.audit"


def note(*, action: str, user: str, address: str, outcome: str, **about: object) -> None:
    """Write one line of JSON. ``about`` names queue, job and filter, and never a payload."""
    line = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": "dashboard_action",
        "action": action,
        "user": user,
        "address": address,
        "outcome": outcome,
        "data": {name: value for name, value in about.items() if value not in (None, "")},
    }
    logging.getLogger(AUDIT).info("%s", json.dumps(line, ensure_ascii=True, default=str))
