"""The audit log: a line for every action and every payload that was revealed, refused ones too."""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import trace

#: The logger; whoever serves the dashboard says where it goes.
AUDIT: Final = "headrace.dashboard.audit"

_NAMES: Final = {"queue": "queueName", "id": "jobId"}


def note(*, action: str, user: str, address: str, outcome: str, **about: object) -> None:
    """Write one line of JSON, as all log lines are.

    ``about`` names queue, job and filter, and never a payload.
    """
    told = {_NAMES.get(n, n): value for n, value in about.items() if value not in (None, "")}
    line = {
        "timestamp": f"{datetime.now(UTC).isoformat(timespec='milliseconds')[:-6]}Z",
        "correlationId": f"{socket.gethostname()}:{os.getpid()}",
        "level": "info",
        "event": "dashboard_action",
        "data": {
            "action": action,
            "user": user,
            "address": address,
            "outcome": outcome,
            **told,
        },
        **_span(),
    }
    logging.getLogger(AUDIT).info("%s", json.dumps(line, ensure_ascii=True, default=str))


def _span() -> dict[str, Any]:
    """Of the request, if whoever serves the dashboard traces them."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    ids = format(span.trace_id, "032x"), format(span.span_id, "016x")
    return dict(zip(("trace_id", "span_id"), ids, strict=True))
