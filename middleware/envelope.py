"""The bytes of a sealed body: version, algorithm, key, salt, nonce, ciphertext.

``docs/encryption.md`` has the layout. Every body has a key of its own, derived from the ring's
by a random salt, so that no number of messages wears a key out.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broker.sealing import Place, Unauthenticated, Undecryptable
from middleware.keyring import CHECK_BYTES, Key, KeyRing

VERSION: Final = 1
AES_256_GCM: Final = 1
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_INFO: Final = b"headrace envelope 1"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A sealed body, taken apart."""

    key_id: str
    key_check: bytes
    salt: bytes
    nonce: bytes
    #: With the tag at its end.
    ciphertext: bytes

    @property
    def header(self) -> bytes:
        """Everything before the salt."""
        id = self.key_id.encode()
        return bytes((VERSION, AES_256_GCM, len(id))) + id + self.key_check

    def pack(self) -> bytes:
        """As it lies in Redis."""
        return self.header + self.salt + self.nonce + self.ciphertext

    @classmethod
    def unpack(cls, data: bytes) -> Envelope:
        """The inverse of :meth:`pack`.

        Raises:
          Undecryptable: of another version, or no envelope.
        """
        if data[:2] != bytes((VERSION, AES_256_GCM)):
            raise Undecryptable("the envelope's version or algorithm is not known here")
        position = 3 + (data[2] if len(data) > 2 else 0)
        id, rest = data[3:position], data[position:]
        least = CHECK_BYTES + SALT_BYTES + NONCE_BYTES + TAG_BYTES
        if len(rest) < least or not id.isascii():
            raise Undecryptable("the envelope is cut off")
        salt = CHECK_BYTES
        nonce = salt + SALT_BYTES
        body = nonce + NONCE_BYTES
        return cls(id.decode(), rest[:salt], rest[salt:nonce], rest[nonce:body], rest[body:])


def seal(key: Key, place: Place, body: bytes) -> bytes:
    """Encrypt a body, so that it opens in this place only."""
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    empty = Envelope(key.id, key.check, salt, nonce, b"")
    ciphertext = AESGCM(key.derive(salt, _INFO)).encrypt(nonce, body, _bound(empty, place))
    return empty.pack() + ciphertext


def open(keys: KeyRing, place: Place, sealed: bytes) -> bytes:  # noqa: A001 - the envelope's verb
    """The body of an envelope.

    Raises:
      Undecryptable: none of the keys is the one it was sealed by.
      Unauthenticated: it was changed, or sealed for another place.
    """
    envelope = Envelope.unpack(sealed)
    key = keys.get(envelope.key_id)
    if key is None or key.check != envelope.key_check:
        which = "no key" if key is None else "another key"
        raise Undecryptable(f"this process has {which} {envelope.key_id!r}")
    cipher = AESGCM(key.derive(envelope.salt, _INFO))
    try:
        return cipher.decrypt(envelope.nonce, envelope.ciphertext, _bound(envelope, place))
    except InvalidTag:
        text = "the body was changed, or belongs to another message, queue or namespace"
        raise Unauthenticated(text) from None


def _bound(envelope: Envelope, place: Place) -> bytes:
    """The associated data: no two different places have the same."""
    parts = (
        place.purpose,
        place.namespace,
        place.queue,
        place.actor,
        place.message_id,
        str(place.timestamp),
    )
    return _framed([envelope.header, *[part.encode() for part in parts]])


def _framed(parts: list[bytes]) -> bytes:
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])
