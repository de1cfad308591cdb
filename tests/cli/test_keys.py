"""`headrace keys`: from no key to a changed one, and nothing shows a key but `generate`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dramatiq import Message

from broker import StreamsBroker
from broker.cli.exits import Exit
from broker.embedded import EmbeddedValkey
from middleware.encryption import Encryption
from middleware.keyring import KeyRing, new_key
from tests.cli.conftest import Headrace
from tests.conftest import NewBroker
from tests.processes import ROOT

APPLICATION = """
import os
from broker import StreamsBroker
from middleware.encryption import Encryption
from middleware.keyring import KeyRing
broker = StreamsBroker(
    url=os.environ["REDIS_URL"],
    namespace=os.environ["QUEUE_PREFIX"],
    middleware=[Encryption(KeyRing.from_text(os.environ["HEADRACE_KEYS"]))],
)
"""


def test_a_printed_key_is_one_that_a_ring_takes(headrace: Headrace) -> None:
    ran = headrace("keys", "generate", "--id", "first")
    assert KeyRing.from_text(ran.out.strip()).active.id == "first"
    told = headrace("keys", "generate", "--json").json
    assert KeyRing.from_text(f"{told['id']}:{told['key']}")
    assert headrace("keys", "generate", "--id", "no blanks").status == Exit.USAGE


def test_a_file_is_made_grows_and_changes_its_active_key(
    headrace: Headrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.toml"
    assert headrace("keys", "generate", "--id", "old", "--into", str(file)).status == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    ran = headrace("keys", "generate", "--id", "new", "--into", str(file))
    assert ran.out == "added new; old is active\n"
    assert headrace("keys", "rotate", str(file), "new").out == "new is active\n"
    ring = KeyRing.from_file(file)
    assert ([key.id for key in ring], ring.active.id) == (["old", "new"], "new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    monkeypatch.setenv("HEADRACE_KEY_FILE", str(file))
    rows = headrace("keys", "check", "--json").json
    assert [(row["id"], row["active"]) for row in rows] == [("old", False), ("new", True)]


@pytest.mark.parametrize(
    "arguments", [("rotate", "{}", "nobody"), ("generate", "--id", "old", "--into", "{}")]
)
def test_a_refused_change_leaves_the_file(
    headrace: Headrace, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    file = tmp_path / "keys.toml"
    headrace("keys", "generate", "--id", "old", "--into", str(file))
    before = file.read_bytes()
    assert headrace("keys", *(each.format(file) for each in arguments)).status == Exit.USAGE
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (before, [file])


def test_a_folder_that_is_not_there_is_told_in_one_line(headrace: Headrace, tmp_path: Path) -> None:
    ran = headrace("keys", "generate", "--into", str(tmp_path / "nowhere" / "keys.toml"))
    assert ran.status == Exit.FAILED
    assert len(ran.err.splitlines()) == 1


def test_a_check_shows_no_key(headrace: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert headrace("keys", "check").status == Exit.USAGE
    key = new_key()
    monkeypatch.setenv("HEADRACE_KEYS", f"only:{key}")
    ran = headrace("keys", "check")
    assert "only" in ran.out
    monkeypatch.setenv("HEADRACE_KEYS", f"only:{key[:-4]}")
    wrong = headrace("keys", "check")
    assert wrong.status == Exit.USAGE
    assert key[:10] not in ran.out + wrong.err


def test_what_waits_is_sealed_by_the_new_key(
    environment: dict[str, str], server: EmbeddedValkey, new_broker: NewBroker, tmp_path: Path
) -> None:
    old, new, other = (f"{name}:{new_key()}" for name in ("old", "new", "other"))
    _send(new_broker, server, old)
    (tmp_path / "sealed_app.py").write_text(APPLICATION)

    def re_encrypt(keys: str) -> subprocess.CompletedProcess[str]:
        command = ["--app", "sealed_app", "keys", "re-encrypt", "--json"]
        return subprocess.run(
            [Path(sys.executable).with_name("headrace"), *command],
            env={
                **os.environ,
                **environment,
                "HEADRACE_KEYS": keys,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    refused = re_encrypt(other)
    assert refused.stdout == '{"resealed": 0, "not_opened": 5}\n'
    assert refused.returncode == Exit.FAILED
    assert re_encrypt(f"{new},{old}").stdout == '{"resealed": 5, "not_opened": 0}\n'
    again = re_encrypt(new)
    assert (again.returncode, again.stdout) == (0, '{"resealed": 0, "not_opened": 0}\n')


def _send(new_broker: NewBroker, server: EmbeddedValkey, keys: str) -> None:
    encryption = Encryption(KeyRing.from_text(keys), default=True)
    broker = new_broker("streams", server.url, middleware=[encryption])
    assert isinstance(broker, StreamsBroker)
    messages = [Message[object]("mail", "deliver", (n,), {}, {}) for n in range(5)]
    broker.enqueue_many(messages, delay=3_600_000)
