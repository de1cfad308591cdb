"""No secret of the settings is shown by anything that the command line prints."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from middleware.keyring import new_key
from tests.cli.conftest import Headrace
from tests.cli.test_every_command import EVERY
from tests.conftest import NewServer
from tests.processes import ROOT

PASSWORD = "geheim-4711"


@pytest.fixture
def environment(
    own_server: NewServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A server with a password, which is in the URL, and more secrets."""
    server = own_server(config={"requirepass": PASSWORD})
    made = {
        "REDIS_URL": server.url.replace("redis://", f"redis://:{PASSWORD}@"),
        "QUEUE_PREFIX": namespace,
        "HEADRACE_KEYS": f"{PASSWORD}",
        "SMTP_PASSWORD": PASSWORD,
    }
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--help",), ("doctor",), ("doctor", "--json"), ("queues", "ls"), ("stats", "--count=1")),
        *(
            ("acl",),
            ("keys", "check"),
            ("workers",),
            ("jobs", "show", "x"),
            ("queues", "show", "x"),
        ),
        *(("events", "tail", "nothing"), ("dead", "ls", "nothing"), ("schedules", "ls")),
    ],
)
def test_no_command_shows_a_secret(headrace: Headrace, arguments: tuple[str, ...]) -> None:
    ran = headrace(*arguments)
    assert PASSWORD not in ran.out + ran.err
    assert ran.out + ran.err


def test_no_help_shows_a_secret(headrace: Headrace) -> None:
    for words in EVERY:
        told = headrace(*words, "--help").out
        assert "Usage: headrace" in told
        assert PASSWORD not in told


@pytest.mark.parametrize("right", [True, False])
def test_no_workers_log_and_no_traceback_in_it_shows_a_secret(
    environment: dict[str, str], right: bool
) -> None:
    url = environment["REDIS_URL"]
    key = new_key()
    process = subprocess.Popen(
        [sys.executable, "-m", "dramatiq", "actors", "--processes=1", "--threads=1", "--verbose"],
        cwd=ROOT,
        env={
            **os.environ,
            **environment,
            "REDIS_URL": url if right else url.replace(PASSWORD, f"{PASSWORD}-wrong"),
            "HEADRACE_KEYS": f"first:{key}",
            "SMTP_USERNAME": "app",
            "SMTP_TLS": "starttls",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "ready for action" in line:
            process.terminate()
    process.wait(20)
    assert ("AuthenticationRefused" in shown) is not right
    assert ("Worker has been shut down" in shown) is right
    assert PASSWORD not in shown
    assert key not in shown


def test_a_refusal_shows_no_secret(
    headrace: Headrace, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    wrong = environment["REDIS_URL"].replace(PASSWORD, f"{PASSWORD}-wrong")
    monkeypatch.setenv("REDIS_URL", wrong)
    for arguments in (("queues", "ls"), ("doctor",)):
        ran = headrace(*arguments)
        assert PASSWORD not in ran.out + ran.err
    monkeypatch.setenv("REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:notaport/0")
    assert PASSWORD not in headrace("queues", "ls").err
