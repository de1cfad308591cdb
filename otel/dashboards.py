"""The dashboards, by the questions they answer: `python -m otel.dashboards` writes them.

The files lie in ``otel/config/grafana/dashboards/``; a test holds them against this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from otel.grafana import Dashboard, Logs, Panel, Query, Traces

FOLDER: Final = Path(__file__).parent / "config" / "grafana" / "dashboards"

#: What is chosen at the top of a dashboard.
_QUEUE: Final = 'messaging_destination_name=~"$queue"'
_TRACED_QUEUE: Final = 'span.messaging.destination.name =~ "$queue"'
_UTILIZATION: Final = "headrace:worker_utilization"
_THREADS: Final = "headrace:worker_threads"


def _rate(metric: str, *by: str, where: str = _QUEUE) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{{where}}}[$__rate_interval]))"


def _quantile(share: float, metric: str, *by: str, where: str = _QUEUE) -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', 'le', *by, where=where)})"


def _gauge(name: str, where: str = _QUEUE) -> str:
    # As the rules beside the alerts record it, while it is fresh: what a process said that has
    # died since is not shown.
    return f"headrace:{name}{{{where}}}"


def _quantiles(metric: str, where: str = _QUEUE) -> list[Query]:
    return [
        Query(_quantile(share, metric, where=where), f"p{share * 100:g}", exemplars=share == 0.95)
        for share in (0.5, 0.95, 0.99)
    ]


_Q: Final = "messaging_destination_name"
_A: Final = "headrace_actor"
_FAILED: Final = f'{_QUEUE}, headrace_outcome="failed"'
_RUN: Final = f'{_QUEUE}, headrace_outcome=~"completed|failed"'
_CONSUMED: Final = "messaging_client_consumed_messages_total"
_DEAD: Final = f'{_QUEUE}, headrace_state="dead"'
_MESSAGES: Final = _gauge("queue_messages")
_QUEUES: Final = ("queue", f"label_values(headrace:queue_messages, {_Q})")

OVERVIEW: Final = Dashboard(
    "overview",
    "Overview",
    [
        Panel("Runs", [Query(_rate(_CONSUMED, _Q, where=_RUN), f"{{{{{_Q}}}}}")], "reqps"),
        Panel(
            "Runs that fail",
            [
                Query(
                    f"{_rate(_CONSUMED, _Q, where=_FAILED)} / {_rate(_CONSUMED, _Q, where=_RUN)}",
                    f"{{{{{_Q}}}}}",
                )
            ],
            "percentunit",
        ),
        Panel("Time of a run", _quantiles("messaging_process_duration_seconds"), "s"),
        Panel("Wait until a run", _quantiles("headrace_message_wait_duration_seconds"), "s"),
        Panel(
            "Messages",
            [
                Query(
                    f"sum by (headrace_state) ({_MESSAGES})",
                    "{{headrace_state}}",
                )
            ],
        ),
        Panel(
            "Oldest message that waits",
            [Query(_gauge("queue_oldest_age_seconds"), f"{{{{{_Q}}}}}")],
            "s",
        ),
        Panel("Threads that are busy", [Query(f"avg({_UTILIZATION})", "all")], "percentunit"),
        Panel(
            "Sends",
            [Query(_rate("messaging_client_sent_messages_total", _Q), f"{{{{{_Q}}}}}")],
            "reqps",
        ),
    ],
    [_QUEUES],
)

QUEUE: Final = Dashboard(
    "queue",
    "Queue",
    [
        Panel(
            "Messages",
            [Query(_MESSAGES, "{{headrace_state}}")],
        ),
        Panel(
            "In and out",
            [
                Query(_rate("messaging_client_sent_messages_total", _Q), "sent"),
                Query(_rate(_CONSUMED, _Q, where=_RUN), "run"),
            ],
            "reqps",
        ),
        Panel(
            "Time of a run, p95",
            [
                Query(
                    _quantile(0.95, "messaging_process_duration_seconds", _A),
                    f"{{{{{_A}}}}}",
                    exemplars=True,
                )
            ],
            "s",
            text="A diamond is an exemplar: it leads to the trace of a run.",
        ),
        Panel(
            "Wait until a run, p95",
            [
                Query(
                    _quantile(0.95, "headrace_message_wait_duration_seconds", _Q),
                    f"{{{{{_Q}}}}}",
                    exemplars=True,
                )
            ],
            "s",
        ),
        Panel(
            "Failures by type",
            [
                Query(
                    _rate(_CONSUMED, _A, "error_type", where=_FAILED),
                    f"{{{{{_A}}}}} {{{{error_type}}}}",
                )
            ],
            "reqps",
        ),
        Panel(
            "Endings",
            [Query(_rate(_CONSUMED, "headrace_outcome"), "{{headrace_outcome}}")],
            "reqps",
        ),
        Panel(
            "Retried and parked",
            [
                Query(_rate("headrace_retries_total", _Q), "retried"),
                Query(_rate("headrace_limiter_parked_total", _A), f"parked {{{{{_A}}}}}"),
            ],
            "reqps",
        ),
        Panel(
            "Time of a send",
            _quantiles(
                "messaging_client_operation_duration_seconds",
                f'{_QUEUE}, messaging_operation_name="send"',
            ),
            "s",
        ),
        Panel(
            "Live consumers",
            [Query(_gauge("queue_consumers"), f"{{{{{_Q}}}}}")],
        ),
        Panel(
            "Paused",
            [Query(_gauge("queue_paused"), f"{{{{{_Q}}}}}")],
            "bool",
        ),
    ],
    [_QUEUES],
)

WORKERS: Final = Dashboard(
    "workers",
    "Workers",
    [
        Panel("Processes", [Query(f"count({_THREADS})", "processes")], width=6, kind="stat"),
        Panel("Threads", [Query(f"sum({_THREADS})", "threads")], width=6, kind="stat"),
        Panel("Busy", [Query(f"avg({_UTILIZATION})", "busy")], "percentunit", 12),
        Panel(
            "Busy threads by process",
            [Query(f"max by (instance) ({_UTILIZATION})", "{{instance}}")],
            "percentunit",
        ),
        Panel(
            "Runs by process",
            [Query(_rate(_CONSUMED, "instance", where=_RUN), "{{instance}}")],
            "reqps",
        ),
        Panel(
            "Redelivered",
            [Query(_rate("headrace_redeliveries_total", _A), f"{{{{{_A}}}}}")],
            "reqps",
            text="Runs whose delivery before ended with its worker.",
        ),
        Panel(
            "Settlements refused",
            [Query(_rate("headrace_settle_stale_total", _Q), f"{{{{{_Q}}}}}")],
            "reqps",
            text="The worker had lost the lease: somebody else runs the job.",
        ),
        Panel(
            "Settlements at once",
            [Query(_quantile(0.95, "headrace_settle_batch_size", _Q), f"p95 {{{{{_Q}}}}}")],
        ),
        Panel(
            "Time to settle",
            _quantiles(
                "messaging_client_operation_duration_seconds",
                f'{_QUEUE}, messaging_operation_name="settle"',
            ),
            "s",
        ),
        Panel(
            "Memory of the server",
            [
                Query("headrace:server_memory_used_bytes", "used"),
                Query("headrace:server_memory_limit_bytes", "limit"),
            ],
            "bytes",
        ),
    ],
    [_QUEUES],
)

DEAD_LETTERS: Final = Dashboard(
    "dead-letters",
    "Dead letters",
    [
        Panel(
            "Dead letters",
            [
                Query(
                    _gauge("queue_messages", _DEAD),
                    f"{{{{{_Q}}}}}",
                )
            ],
        ),
        Panel(
            "More in an hour",
            [
                Query(
                    f"delta({_gauge('queue_messages', _DEAD)}[1h])",
                    f"{{{{{_Q}}}}}",
                )
            ],
        ),
        Panel(
            "Failures by actor and type",
            [
                Query(
                    _rate(_CONSUMED, _A, "error_type", where=_FAILED),
                    f"{{{{{_A}}}}} {{{{error_type}}}}",
                )
            ],
            "reqps",
        ),
        Panel("Retried", [Query(_rate("headrace_retries_total", _Q), f"{{{{{_Q}}}}}")], "reqps"),
        Logs(
            "What failed",
            '{service_namespace=~".+"} | json | event=~"job_failed|queue_error"',
            text="Each line leads to its trace.",
        ),
    ],
    [_QUEUES],
)

SCHEDULER: Final = Dashboard(
    "scheduler",
    "Scheduler",
    [
        Panel(
            "Overdue",
            [
                Query(
                    _gauge("schedule_overdue_seconds"),
                    "{{headrace_schedule}}",
                )
            ],
            "s",
            text="Time since a fire was due that no scheduler has made.",
        ),
        Panel(
            "Missed",
            [Query(_gauge("schedule_missed"), "{{headrace_schedule}}")],
        ),
        Panel(
            "Scheduled for later",
            [
                Query(
                    _gauge("queue_messages", f'{_QUEUE}, headrace_state="scheduled"'),
                    f"{{{{{_Q}}}}}",
                )
            ],
        ),
        Panel(
            "Due, and not yet handed over",
            [
                Query(
                    _gauge("queue_messages", f'{_QUEUE}, headrace_state="due"'),
                    f"{{{{{_Q}}}}}",
                )
            ],
        ),
    ],
    [_QUEUES],
)

TRACES: Final = Dashboard(
    "traces",
    "Traces",
    [
        Traces(
            "Who sends to whom",
            "",
            "serviceMap",
            24,
            "From the parents of spans; Tempo's metrics generator makes it.",
        ),
        Traces(
            "Failed runs",
            f"{{ span:kind = consumer && span:status = error && {_TRACED_QUEUE} }}",
        ),
        Traces(
            "Slow runs",
            f"{{ span:kind = consumer && span:duration > 1s && {_TRACED_QUEUE} }}",
        ),
        Traces(
            "Retries",
            f"{{ span.headrace.attempt > 1 && {_TRACED_QUEUE} }}",
        ),
        Traces("Runs by actor", '{ span:kind = consumer && span.headrace.actor =~ "$actor" }'),
        Panel(
            "Time of a run, with exemplars",
            [
                Query(
                    _quantile(
                        0.95,
                        "messaging_process_duration_seconds",
                        _A,
                        where='headrace_actor=~"$actor"',
                    ),
                    f"{{{{{_A}}}}}",
                    exemplars=True,
                )
            ],
            "s",
            text="A diamond leads to the trace of a run.",
        ),
        Panel(
            "Spans by name, from the traces",
            [
                Query(
                    _rate("traces_spanmetrics_calls_total", "span_name", "status_code", where=""),
                    "{{span_name}} {{status_code}}",
                )
            ],
            "reqps",
        ),
        Logs("Lines with a trace", '{service_namespace=~".+"} | trace_id != ""'),
    ],
    [_QUEUES, ("actor", f"label_values(messaging_process_duration_seconds_count, {_A})")],
)

DASHBOARDS: Final = (OVERVIEW, QUEUE, WORKERS, DEAD_LETTERS, SCHEDULER, TRACES)


def files() -> dict[str, str]:
    """The dashboards' files by name."""
    return {f"{each.name}.json": json.dumps(each.as_json(), indent=2) + "\n" for each in DASHBOARDS}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
