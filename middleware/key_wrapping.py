"""Keys that are stored encrypted by another one: what a key management service does.

A process unwraps its keys once, at start; messages are sealed by the unwrapped ones. So the
service is asked a few times a process, never once a message.
"""

from __future__ import annotations

import base64
import binascii
from typing import Protocol

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from broker.configuration import HIDDEN
from broker.errors import HeadraceError, SettingsError


class UnwrapFailed(HeadraceError):
    """It was wrapped by another key, was changed, or the service did not answer."""


class KeyWrapper(Protocol):
    """A key management service, or whatever else keeps the key that encrypts keys."""

    def wrap(self, key: bytes) -> bytes:
        """The key, encrypted."""
        ...

    def unwrap(self, wrapped: bytes) -> bytes:
        """The key.

        Raises:
          UnwrapFailed: it can't be had.
        """
        ...


class LocalKeyWrapper:
    """Wraps by a key-encryption key in this process: AES key wrap (RFC 3394)."""

    def __init__(self, key: bytes) -> None:
        """
        Raises:
          SettingsError: it is not 32 bytes long.
        """
        if len(key) != 32:
            raise SettingsError("key-encryption key", HIDDEN, "must be 32 bytes in base64")
        self._key = key

    @classmethod
    def from_text(cls, text: str) -> LocalKeyWrapper:
        """The key as a variable holds it, in base64.

        Raises:
          SettingsError: it is no base64, or not 32 bytes long.
        """
        try:
            return cls(base64.b64decode(text, validate=True))
        except binascii.Error:
            raise SettingsError("key-encryption key", HIDDEN, "must be base64") from None

    def wrap(self, key: bytes) -> bytes:
        """The key, encrypted; 8 bytes longer."""
        return aes_key_wrap(self._key, key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The key.

        Raises:
          UnwrapFailed: it was wrapped by another key, or was changed.
        """
        try:
            return aes_key_unwrap(self._key, wrapped)
        except (InvalidUnwrap, ValueError):
            raise UnwrapFailed("wrapped by another key, or changed") from None

    def __repr__(self) -> str:
        return f"LocalKeyWrapper({HIDDEN})"
