"""Sealed bodies: what opens them, and that nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.sealing import NotOpened, Place, Unauthenticated, Undecryptable
from middleware import envelope
from middleware.keyring import Key, KeyRing

KEY = Key("2026-11", bytes(range(32)))
RING = KeyRing([KEY], KEY.id)
PLACE = Place("message", "chat", "mail", "send_mail", "id-1", 1_764_000_000_000)
BODY = b'{"args":["meet me at nine"]}'

names = st.text(max_size=30)
places = st.builds(
    Place,
    st.sampled_from(["message", "result"]),
    names,
    names,
    names,
    names,
    st.integers(min_value=0, max_value=2**53),
)


@given(body=st.binary(max_size=300), place=places)
def test_what_is_sealed_opens_in_its_place(body: bytes, place: Place) -> None:
    assert envelope.open(RING, place, envelope.seal(KEY, place, body)) == body


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(envelope.seal(KEY, PLACE, BODY))
    bit = data.draw(st.integers(min_value=0, max_value=8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotOpened) as refusal:
        envelope.open(RING, PLACE, bytes(sealed))
    assert b"nine" not in str(refusal.value).encode()


@given(data=st.data())
def test_a_cut_or_lengthened_envelope_is_noticed(data: st.DataObject) -> None:
    sealed = envelope.seal(KEY, PLACE, BODY)
    cut = sealed[: data.draw(st.integers(min_value=0, max_value=len(sealed) - 1))]
    longer = sealed + data.draw(st.binary(min_size=1, max_size=9))
    for changed in (cut, longer):
        with pytest.raises(NotOpened):
            envelope.open(RING, PLACE, changed)


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_envelope_are_refused(data: bytes) -> None:
    with pytest.raises(NotOpened):
        envelope.open(RING, PLACE, data)


@given(place=places, other=places)
def test_an_envelope_opens_nowhere_else(place: Place, other: Place) -> None:
    if place == other:
        return
    with pytest.raises(Unauthenticated):
        envelope.open(RING, other, envelope.seal(KEY, place, BODY))


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "result"},
        {"namespace": "other"},
        {"queue": "other"},
        {"actor": "other"},
        {"message_id": "id-2"},
        {"timestamp": 1_764_000_000_001},
        # The boundary between two parts can't be moved.
        {"queue": "mailsend_", "actor": "mail"},
    ],
    ids=str,
)
def test_every_part_of_the_place_is_bound(change: dict[str, object]) -> None:
    other = dataclasses.replace(PLACE, **change)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated):
        envelope.open(RING, other, envelope.seal(KEY, PLACE, BODY))


def test_a_key_that_is_missing_and_one_of_the_same_name_are_told_apart_from_a_forgery() -> None:
    sealed = envelope.seal(KEY, PLACE, BODY)
    for key in (Key("2026-12", KEY.derive(b"", b"")), Key(KEY.id, bytes(32))):
        with pytest.raises(Undecryptable, match="2026-11"):
            envelope.open(KeyRing([key], key.id), PLACE, sealed)


def test_any_key_of_the_ring_opens() -> None:
    new = Key("2026-12", bytes(32))
    sealed = envelope.seal(KEY, PLACE, BODY)
    assert envelope.open(KeyRing([new, KEY], new.id), PLACE, sealed) == BODY


def test_the_same_body_never_looks_the_same() -> None:
    sealed = {envelope.seal(KEY, PLACE, BODY) for _ in range(100)}
    assert len(sealed) == 100
    assert not any(b"nine" in each for each in sealed)


def test_the_layout_is_the_documented_one() -> None:
    sealed = envelope.seal(KEY, PLACE, BODY)
    assert sealed[:3] == bytes((1, 1, 7))
    assert sealed[3:10] == b"2026-11"
    assert sealed[10:14] == KEY.check
    assert len(sealed) == 14 + 16 + 12 + len(BODY) + 16
