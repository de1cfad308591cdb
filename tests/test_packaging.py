"""What is installed, what the lock holds, and what the metadata must not say (docs/adr/0001)."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq_dashboard import DashboardApp
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from broker.embedded import EmbeddedValkey

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DASHBOARD = "dramatiq-dashboard"


def _locked() -> dict[str, str]:
    """Name -> the whole entry, with its hashes."""
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    return {canonicalize_name(entry.split("==")[0]): entry for entry in entries}


@pytest.mark.parametrize(
    ("package", "expected"), [("dramatiq", "2.2."), ("redis", "8."), (DASHBOARD, "0.4.0")]
)
def test_the_version_is_the_one_we_build_on(package: str, expected: str) -> None:
    assert version(package).startswith(expected)


def test_the_dashboard_runs_beside_the_versions_it_says_it_cannot_bear(
    valkey_server: EmbeddedValkey, namespace: str
) -> None:
    broker = RedisBroker(url=valkey_server.url, namespace=namespace)
    broker.declare_queue("mail")
    broker.enqueue(Message("mail", "send", (), {}, {}))
    application = DashboardApp(broker, prefix="")
    environ: dict[str, object] = {}
    setup_testing_defaults(environ)
    status: list[str] = []
    page = b"".join(application(environ, lambda code, headers: status.append(code)))
    broker.close()
    assert status == ["200 OK"]
    assert b"mail" in page


def test_what_is_installed_is_what_is_locked() -> None:
    for name in ("dramatiq", "redis", "hiredis", "msgspec", "periodiq", DASHBOARD):
        assert _locked()[name].startswith(f"{name}=={version(name)} "), name


def test_every_locked_package_is_pinned_and_hashed() -> None:
    locked = _locked()
    assert len(locked) > 40
    for name, entry in locked.items():
        assert re.match(r"[\w.-]+==[\w.]+( ; [^\\]+)? \\\n", entry), name
        hashes = entry.splitlines()[1:]
        assert hashes, name
        for line in hashes:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), name


def test_the_lock_names_no_place() -> None:
    for word in ("://", "--index-url", "--extra-index-url", "--find-links", "#", "file:", "@"):
        assert word not in LOCK, word


def test_the_lock_holds_everything_that_the_project_needs() -> None:
    locked = _locked()
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for line in wanted:
        requirement = Requirement(line)
        entry = locked[canonicalize_name(requirement.name)]
        pinned = entry.split("==")[1].split()[0]
        assert requirement.specifier.contains(pinned), line


def test_a_plain_install_does_not_meet_the_dashboards_limits() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    named = {
        canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *extras]
    }
    assert DASHBOARD not in named
    assert DASHBOARD in _locked()
