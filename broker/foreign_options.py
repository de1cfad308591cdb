"""Options that only another language's producer sets, and that Dramatiq's worker can't bear."""

from __future__ import annotations

from typing import Any


def take_eta(options: dict[str, Any], now_ms: int) -> float:
    """Take the option ``eta`` out; returns how many ms are left until then, from ``now_ms`` on.

    Dramatiq would keep the message in memory meanwhile, and forget it when the connection breaks.
    """
    eta = options.pop("eta", None)
    return eta - now_ms if isinstance(eta, int | float) else 0


def drop_throws(options: dict[str, Any]) -> None:
    """Take the option ``throws`` out if it is no class: Dramatiq's thread would die of it."""
    try:
        isinstance(None, options.get("throws") or ())
    except TypeError:
        del options["throws"]
