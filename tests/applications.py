"""Worker modules for the real command line, and what their jobs leave behind.

An application's jobs record what they do in a Redis stream under the test's
namespace, so that a test can wait for it with a blocking read and look at all of
it in the end.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import redis

from tests.contract.brokers import IMPORT_LINE, BrokerKind
from tests.waiting import PATIENCE_S

_HEADER = """\
import os, signal, threading, time
import dramatiq, redis
from dramatiq.middleware import CurrentMessage, Middleware
{import_line}

URL, NOTEBOOK, NAMESPACE = {url!r}, {notebook!r}, {namespace!r}
broker = TheBroker(url=URL, namespace=NAMESPACE, **{options!r})
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)
# A job may wait here for as long as it likes; the broker's client is not touched.
own = redis.Redis.from_url(NOTEBOOK, socket_timeout=None)


def note(event, label=""):
    note_all([event], label)


def note_all(events, label=""):
    current = CurrentMessage.get_current_message()
    message_id = current.message_id if current else ""
    with own.pipeline(transaction=False) as pipe:
        for event in events:
            fields = dict(event=event, id=message_id, label=label, pid=os.getpid())
            pipe.xadd(NAMESPACE + ":effects", fields)
        pipe.execute()


def first_time(what):
    return own.set(NAMESPACE + ":once:" + what, 1, nx=True)


def wait_for_permission(name):
    own.blpop([NAMESPACE + ":permission:" + name])

"""


def application(
    kind: BrokerKind,
    url: str,
    namespace: str,
    body: str,
    *,
    notebook: str | None = None,
    **options: object,
) -> str:
    """The source of a module with a broker of this kind, made with `options`, and `body`.

    The body may call `note(event, label)`, `first_time(what)` (true once in a
    test) and `wait_for_permission(name)` (until the test gives it). They use the
    server at `notebook`, for tests that hurt the broker's own at `url`.
    """
    header = _HEADER.format(
        import_line=IMPORT_LINE[kind],
        url=url,
        notebook=url if notebook is None else notebook,
        namespace=namespace,
        options=options,
    )
    return header + textwrap.dedent(body)


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing a job did. `at_s` is the test's monotonic clock when the test read it."""

    event: str
    message_id: str
    label: str
    pid: int
    at_s: float


class Effects:
    """Everything the jobs of a namespace did, in the order in which the server got it."""

    def __init__(self, url: str, namespace: str) -> None:
        self._client = redis.Redis.from_url(url, decode_responses=True, protocol=2)
        self._key = f"{namespace}:effects"
        self._namespace = namespace
        self._last = "0"
        self._unread: deque[Effect] = deque()
        self.all: list[Effect] = []

    def close(self) -> None:
        self._client.close()

    def permit(self, name: str, times: int = 1) -> None:
        """Let a job go on that waits for this permission, now or later."""
        self._client.rpush(f"{self._namespace}:permission:{name}", *["go"] * times)

    def arm(self, what: str) -> None:
        """Let a module's own fault happen once, the next time that it looks."""
        self._client.rpush(f"{self._namespace}:kill:{what}", "now")

    def next(
        self,
        event: str | None = None,
        *,
        label: str | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> Effect:
        """The next effect of this kind; those before it are only in `all`.

        Raises:
          AssertionError: when there is none in time; it shows what there was.
        """
        for effect in self._read(timeout_s):
            if event in (None, effect.event) and label in (None, effect.label):
                return effect
        raise AssertionError(f"no {event!r} {label or ''} within {timeout_s} s, only {self.all}")

    def take(self, count: int, event: str, timeout_s: float = PATIENCE_S) -> list[Effect]:
        """The next `count` effects of this kind, all within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        return [self.next(event, timeout_s=deadline - time.monotonic()) for _ in range(count)]

    def catch_up(self) -> list[Effect]:
        """Read what is there now; everything read so far."""
        for _ in self._read(0):
            pass
        return self.all

    def note(self, event: str, message_ids: Iterable[str]) -> None:
        """As a job does it, for consumers that a test plays itself."""
        with self._client.pipeline(transaction=False) as pipe:
            for message_id in message_ids:
                fields = {"event": event, "id": message_id, "label": "", "pid": os.getpid()}
                pipe.xadd(self._key, fields)  # type: ignore[arg-type]  # invariant dict
            pipe.execute()

    def _read(self, timeout_s: float) -> Iterator[Effect]:
        deadline = time.monotonic() + timeout_s
        while True:
            while self._unread:
                self.all.append(self._unread.popleft())
                yield self.all[-1]
            left_ms = int((deadline - time.monotonic()) * 1000)
            block = None if left_ms <= 0 else min(left_ms, 1000)
            reply = self._client.xread({self._key: self._last}, count=1000, block=block)
            if reply:
                self._keep(reply)
            elif block is None:
                return

    def _keep(self, reply: object) -> None:
        # redis-py's own type for this reply covers every protocol at once; this is protocol 2's.
        by_key: list[tuple[str, list[tuple[str, dict[str, str]]]]] = reply  # type: ignore[assignment]
        read_at_s = time.monotonic()
        for entry_id, fields in by_key[0][1]:
            self._last = entry_id
            self._unread.append(
                Effect(
                    event=fields["event"],
                    message_id=fields["id"],
                    label=fields["label"],
                    pid=int(fields["pid"]),
                    at_s=read_at_s,
                )
            )
