"""The worker's own threads: one that dies alone is noticed and replaced."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest

from broker import StreamsBroker
from broker.commands import Commands
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually

TIMEOUT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def seen(server: EmbeddedValkey, new_broker: NewBroker, start_worker: StartWorker) -> Seen:
    streams = new_broker("streams", server.url, heartbeat_timeout=600)
    recorded = Seen()
    dramatiq.actor(queue_name="work", broker=streams, actor_name="record")(recorded.add)
    start_worker(streams)
    return recorded


def alive(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name and each.is_alive()]


@pytest.mark.parametrize(("command", "thread"), [("reclaim", "keeper"), ("settle", "settler")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_08_a_thread_that_dies_alone_is_started_again_and_nothing_is_lost(
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: str,
    thread: str,
) -> None:
    streams = dramatiq.get_broker()
    assert isinstance(streams, StreamsBroker)
    # A worker of an earlier test may still be at its last round.
    (before,) = eventually(lambda: alive(f"headrace-{thread}"), lambda found: len(found) == 1)
    real, armed = getattr(Commands, command), threading.Event()

    def dies_once(*args: Any, **kwargs: Any) -> Any:
        if armed.is_set() and threading.current_thread() is before:
            armed.clear()
            raise SystemExit
        return real(*args, **kwargs)

    monkeypatch.setattr(Commands, command, dies_once)
    armed.set()
    streams.enqueue(streams.get_actor("record").message("job"))
    assert seen.next() == "job"
    eventually(before.is_alive, lambda running: not running, what="the thread's death")
    eventually(lambda: alive(f"headrace-{thread}"), lambda found: found not in ([], [before]))
    assert f"The {thread}'s thread has died" in caplog.text
    streams.join("work", timeout=TIMEOUT_MS)
