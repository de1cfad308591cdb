"""The command line as a user runs it: arguments in; output, complaints and exit status out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from broker import StreamsBroker
from broker.cli.main import main
from broker.embedded import EmbeddedValkey
from tests.conftest import NewBroker
from tests.servers import ServerKind


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of `headrace` left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one line of output, decoded."""
        (line,) = self.out.splitlines()
        return json.loads(line)


Headrace = Callable[..., Ran]


@pytest.fixture
def server_kind() -> ServerKind:
    """What the commands ask is tested on both servers; how they ask is not about the server."""
    return "valkey"


@pytest.fixture
def environment(
    server: EmbeddedValkey, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The settings of a run: the shared server, the test's namespace."""
    made = {"REDIS_URL": server.url, "QUEUE_PREFIX": namespace}
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HEADRACE_APP", raising=False)
    return made


@pytest.fixture
def headrace(
    environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Headrace:
    """Run a command in this process: `headrace("queues", "ls", "--json", answer="y")`."""

    def run(*arguments: str, answer: str = "") -> Ran:
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(list(arguments))
        out, err = capsys.readouterr()
        code = exited.value.code
        return Ran(code if isinstance(code, int) else int(code is not None), out, err)

    return run


@pytest.fixture
def broker(server: EmbeddedValkey, new_broker: NewBroker) -> StreamsBroker:
    """A broker in the namespace that the command line looks at."""
    made = new_broker("streams", server.url)
    assert isinstance(made, StreamsBroker)
    return made
