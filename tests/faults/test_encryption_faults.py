"""Rows 46, 47 and 49: ciphertexts that are not for us, changed, moved or old, and pickles."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from broker import StreamsBroker
from middleware.encryption import Encryption
from middleware.keyring import Key, KeyRing
from tests.applications import Effects
from tests.faults.conftest import Source, valkey_only
from tests.faults.history import History
from tests.processes import Launcher
from tests.waiting import eventually

SECRET = "the-canary-46"
KEY = Key("now", bytes(range(32)))

SEALED = """
from middleware.encryption import Encryption
from middleware.keyring import Key, KeyRing

broker.add_middleware(Encryption(KeyRing([{keys}], {active!r}), default=True))


@dramatiq.actor(queue_name="work")
def short(label):
    note("started", label)
    note("done", label)
"""

THE_KEY = "Key('now', bytes(range(32)))"


def worker_source(keys: str = THE_KEY, active: str = "now") -> str:
    return SEALED.format(keys=keys, active=active)


@pytest.fixture
def sealing(producer: StreamsBroker) -> StreamsBroker:
    """The producer, with the key."""
    producer.add_middleware(Encryption(KeyRing([KEY], KEY.id), default=True))
    return producer


def ready(broker: StreamsBroker, queue: str = "work") -> str:
    return f"{{{broker.namespace}:{queue}}}:ready:0"


def last_entry(broker: StreamsBroker) -> dict[bytes, bytes]:
    client: Any = broker.client
    ((_, fields),) = client.xrevrange(ready(broker), count=1)
    return dict(fields)


def changed(sealed: dict[bytes, bytes], position: int) -> dict[bytes, bytes]:
    body = bytearray(sealed[b"sealed"])
    body[position] ^= 1
    return {**sealed, b"sealed": bytes(body)}


@pytest.mark.parametrize(
    ("keys", "active"),
    [("Key('other', bytes(range(32)))", "other"), ("Key('now', bytes(32))", "now")],
    ids=["missing", "wrong"],
)
def test_46_without_the_right_key_a_body_is_buried_and_runs_once_the_key_is_there(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    sealing: StreamsBroker,
    keys: str,
    active: str,
) -> None:
    history.injure()
    sent = history.send("short", SECRET)
    entry = last_entry(sealing)
    keyless = launch(source(worker_source(keys, active)), threads=1)
    (letter,) = eventually(
        lambda: sealing.inspector.dead("work"), lambda found: len(found) == 1, what="the burial"
    )
    assert (letter.reason, letter.id, letter.raw) == ("undecryptable", sent, entry)
    assert keyless.terminate() == 0
    assert SECRET not in keyless.log
    launch(source(worker_source()), threads=1)
    assert sealing.inspector.redrive("work") == 1
    effects.next("done", label=SECRET)
    history.recovered()
    history.settle_down()
    history.check(failures=0, redriven=[sent])


def test_46_a_changed_or_moved_ciphertext_is_buried_and_the_genuine_one_runs(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    sealing: StreamsBroker,
) -> None:
    client: Any = sealing.client
    sent = history.send("short", SECRET)
    entry = last_entry(sealing)
    forgeries = [
        *(changed(entry, position) for position in (-1, -20, 20, 30, 40)),
        {**entry, b"at": b"1"},
        {**entry, b"actor": b"other"},
        {**entry, b"options": b'{"on_success":"other"}'},
        {**entry, b"id": b"another"},
        # Of no version or no key that is known: these end the message that they name.
        *({**changed(entry, n), b"id": f"another-{n}".encode()} for n in (0, 2, 5)),
    ]
    history.injure(len(forgeries))
    for forgery in forgeries:
        record = f"{{{sealing.namespace}:work}}:job:{forgery[b'id'].decode()}"
        client.hsetnx(record, "token", "stolen")
        client.xadd(ready(sealing), forgery)
    worker = launch(source(worker_source()), threads=1)
    effects.next("done", label=SECRET)
    history.recovered()
    history.settle_down()
    letters = sealing.inspector.dead("work")
    assert len(letters) == len(forgeries)
    # After the genuine one has ended the rest of its copies are replays, changed or not.
    assert {letter.reason for letter in letters} <= {
        *("unauthenticated", "undecryptable", "replayed")
    }
    assert [effect.message_id for effect in effects.all] == [sent, sent]
    assert worker.terminate() == 0
    assert SECRET not in worker.log
    sealing.inspector.purge_dead("work")
    client.delete(f"{{{sealing.namespace}:work}}:job:another")  # a forgery ends nobody's job
    history.check(failures=0)


@valkey_only
@pytest.mark.parametrize("forgotten", [False, True], ids=["just ended", "long ago"])
def test_47_an_old_ciphertext_is_not_executed_again(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    sealing: StreamsBroker,
    forgotten: bool,
) -> None:
    client: Any = sealing.client
    sent = history.send("short", "once")
    entry = last_entry(sealing)
    launch(source(worker_source()), threads=1)
    effects.next("done", label="once")
    history.settle_down()
    if forgotten:
        client.delete(f"{{{sealing.namespace}:work}}:job:{sent}")
    history.injure(20)
    for _ in range(20):
        client.xadd(ready(sealing), entry)
    history.send("short", "behind the replays")
    effects.next("done", label="behind the replays")
    history.recovered()
    history.settle_down()
    letters = sealing.inspector.dead("work")
    assert [letter.reason for letter in letters] == ["replayed"] * 20
    assert len(effects.catch_up()) == 4
    sealing.inspector.purge_dead("work")
    history.check(failures=0)


class Bomb:
    """Unpickled, it would note that it was."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def test_49_a_pickled_body_is_buried_and_nothing_of_it_is_imported(
    launch: Launcher,
    source: Source,
    history: History,
    effects: Effects,
    sealing: StreamsBroker,
    tmp_path: Any,
) -> None:
    client: Any = sealing.client
    crater = tmp_path / "crater"
    pickled = pickle.dumps({"args": Bomb(str(crater))})
    fields = ("message", "args", "sealed", "options")
    history.injure(len(fields))
    for name in fields:
        client.hset(f"{{{sealing.namespace}:work}}:job:{name}", "token", "t")
        client.xadd(
            ready(sealing), {"id": name, "actor": "short", "at": "1", "args": "[1]", name: pickled}
        )
    history.send("short", "behind them")
    launch(source(worker_source()), threads=1)
    effects.next("done", label="behind them")
    history.recovered()
    history.settle_down()
    reasons = {letter.reason for letter in sealing.inspector.dead("work")}
    assert reasons == {"undecodable", "undecryptable"}
    assert not crater.exists()
    history.check(failures=0)
