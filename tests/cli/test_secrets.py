"""No secret of the settings is shown by anything that the command line prints."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from broker.cli.main import COMMANDS
from tests.cli.conftest import Headrace
from tests.conftest import NewServer

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
    for place in entry_points(group=COMMANDS):
        assert PASSWORD not in headrace(place.name, "--help").out


def test_a_traceback_shows_no_secret(
    headrace: Headrace, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    wrong = environment["REDIS_URL"].replace(PASSWORD, f"{PASSWORD}-wrong")
    monkeypatch.setenv("REDIS_URL", wrong)
    for arguments in (("queues", "ls"), ("doctor",)):
        ran = headrace(*arguments)
        assert PASSWORD not in ran.out + ran.err
    monkeypatch.setenv("REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:notaport/0")
    assert PASSWORD not in headrace("queues", "ls").err
