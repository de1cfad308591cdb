"""The installed command: interrupts, pipes, completion, and the application it is given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from dramatiq import Message

from broker import StreamsBroker
from broker.cli.exits import Exit
from broker.commands import Settlement
from broker.outcome import Bury
from tests.processes import ROOT

HEADRACE = Path(sys.executable).with_name("headrace")


def _start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(HEADRACE), *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _run(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    with _start(environment, *arguments) as process:
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err


def test_a_job_of_the_application_is_enqueued_and_a_wrong_one_is_not(
    environment: dict[str, str], broker: StreamsBroker
) -> None:
    content = '{"to": "u1@example.com", "subject": "Hi", "text": "There"}'
    payload = f'{{"type": "email", "userId": "u1", "payload": {content}}}'
    status, out, err = _run(environment, "jobs", "enqueue", "send_notification", payload)
    assert (status, err) == (0, "")
    record = broker.jobs.get(out.strip())
    assert record is not None
    assert (record.queue, record.actor) == ("notification-queue", "send_notification")
    status, _, err = _run(environment, "jobs", "enqueue", "send_notification", '{"type": "pigeon"}')
    assert status == Exit.USAGE
    assert "type" in err
    assert broker.inspector.queue("notification-queue").ready == 1
    status, _, err = _run(environment, "--app", "nowhere", "jobs", "enqueue", "send_notification")
    assert (status, "can't be imported" in err) == (Exit.USAGE, True)


def test_an_interrupted_redrive_says_how_far_it_came_and_goes_on(
    environment: dict[str, str], broker: StreamsBroker
) -> None:
    count = 400
    broker.enqueue_many(Message("mail", "deliver", (n,), {}, {}) for n in range(count))
    _bury_all(broker, count)
    with _start(environment, "dead", "redrive", "mail", "--per-second", "100") as process:
        while not broker.inspector.queue("mail").ready:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    moved = broker.inspector.queue("mail").ready
    assert process.returncode == Exit.INTERRUPTED
    assert "interrupted after" in err
    assert "the same command goes on with the rest" in err
    assert 0 < moved < count
    status, out, _ = _run(environment, "dead", "redrive", "mail")
    assert (status, out) == (0, f"moved {count - moved}\n")
    assert broker.inspector.queue("mail").ready == count


def _bury_all(broker: StreamsBroker, count: int) -> None:
    """Dead letters as a worker leaves them, quicker than by one."""
    taken = 0
    while taken < count:
        fetched = broker.commands.fetch(
            "mail", "tester", 200, lowest_first=False, suspects=1, taken=(), signals=()
        )
        settlements = [
            Settlement(handed.lease, handed.field(b"id").decode(), "", Bury("rejected"))
            for handed in fetched.deliveries
        ]
        broker.commands.settle("mail", settlements)
        taken += len(settlements)


def test_tab_offers_commands_and_the_queues_of_the_server(
    environment: dict[str, str], broker: StreamsBroker
) -> None:
    broker.enqueue(Message("mail", "deliver", (), {}, {}))

    def offered(words: str) -> str:
        asking = {"_HEADRACE_COMPLETE": "complete_bash", "COMP_WORDS": words}
        asking["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        return _run({**environment, **asking})[1]

    assert "queues" in offered("headrace qu")
    assert "mail" in offered("headrace queues show m")
    away = {**environment, "REDIS_URL": "redis://127.0.0.1:1/0"}
    environment.update(away)
    assert offered("headrace queues show m").strip() == ""


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(
    environment: dict[str, str], broker: StreamsBroker
) -> None:
    broker.enqueue_many(Message("mail", "deliver", (n,), {}, {}) for n in range(3_000))
    with _start(environment, "events", "tail", "--start", "0-0", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1
