"""What the end of a delivery tells the job's record."""

from __future__ import annotations

from broker import evidence
from broker.delivery import Delivery


def facts_of(delivery: Delivery, error: str) -> list[str]:
    """The record's fields as field, value, ..., the actor's first; ``error`` may be empty."""
    options = delivery.options
    facts = ["actor", delivery.actor_name, "queued", str(delivery.message_timestamp)]
    facts += ("attempts", str(delivery.attempt), "deliveries", str(delivery.lease.count))
    facts += ("worker", delivery.lease.consumer)
    if delivery.started_ms is not None:
        facts += ("started", str(delivery.started_ms))
    if error:
        facts += ("error", error)
    if "correlation_id" in options:
        facts += ("correlation", evidence.encodable(str(options["correlation_id"])))
    if "traceparent" in options:
        facts += ("trace", trace_id(options["traceparent"]))
    return facts


def trace_id(traceparent: object) -> str:
    """The trace's id out of a W3C ``traceparent``."""
    return evidence.encodable(str(traceparent)[3:35])
