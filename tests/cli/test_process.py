"""The installed command: pipes, completion, and the application it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dramatiq import Message

from broker import StreamsBroker
from broker.cli.exits import Exit
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


def test_tab_offers_nothing_while_the_server_is_away() -> None:
    environ = {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "_HEADRACE_COMPLETE": "complete_bash",
        "COMP_WORDS": "headrace queues show m",
        "COMP_CWORD": "3",
    }
    status, out, err = _run(environ)
    assert (status, out.strip(), err) == (0, "", "")


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
