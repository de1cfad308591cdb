"""The keys that messages are sealed by: one seals, all open.

The text of a key is ``ID:BASE64`` with 32 random bytes, or ``ID:wrapped:BASE64`` with bytes that
another key has encrypted (:mod:`middleware.key_wrapping`). A variable holds several, separated by
commas or blanks. A file is TOML::

    active = "2026-11"
    [keys]
    2026-11 = "BASE64"
    2026-08 = "wrapped:BASE64"
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.configuration import HIDDEN
from broker.errors import SettingsError
from broker.process_settings import EncryptionSettings
from middleware.key_wrapping import KeyWrapper, LocalKeyWrapper, UnwrapFailed

KEY_BYTES: Final = 32
CHECK_BYTES: Final = 4
MOST_ID_CHARACTERS: Final = 32

_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{MOST_ID_CHARACTERS}}}", re.ASCII)
_WRAPPED = "wrapped:"
#: Nobody but the owner may change the file, and nobody but owner and group may read it.
_FORBIDDEN_MODE: Final = 0o037


class Key:
    """One key with its name. Its repr, its str and its pickle hide it."""

    __slots__ = ("_secret", "check", "id")

    def __init__(self, id: str, secret: bytes) -> None:
        """
        Raises:
          SettingsError: the id or the length is wrong.
        """
        if not _ID.fullmatch(id):
            rule = f"must be 1 to {MOST_ID_CHARACTERS} letters, digits or . _ -"
            raise SettingsError("a key's id", id, rule)
        if len(secret) != KEY_BYTES:
            raise SettingsError(f"key {id}", HIDDEN, f"must be {KEY_BYTES} bytes in base64")
        self.id = id
        self._secret = secret
        #: Tells two keys of one name apart, and nothing about either.
        self.check = self.derive(b"", b"headrace key check", CHECK_BYTES)

    def derive(self, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
        """A key for one purpose, by HKDF-SHA-256 (RFC 5869)."""
        return HKDF(SHA256(), length, salt, info).derive(self._secret)

    def __repr__(self) -> str:
        return f"Key({self.id!r}, {HIDDEN})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return self.id == other.id and secrets.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash((self.id, self.check))

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a key is not pickled")


class KeyRing:
    """Keys to open with, one of which is active: it seals. Immutable."""

    def __init__(self, keys: Iterable[Key], active: str) -> None:
        """
        Raises:
          SettingsError: two keys have one id, or none has the active one.
        """
        self._keys: dict[str, Key] = {}
        for key in keys:
            if key.id in self._keys:
                raise SettingsError("a key's id", key.id, "names two keys")
            self._keys[key.id] = key
        if active not in self._keys:
            known = ", ".join(self._keys) or "none"
            raise SettingsError("the active key", active, f"must be one of the keys: {known}")
        self.active = self._keys[active]

    @classmethod
    def from_text(
        cls, text: str, active: str | None = None, *, wrapper: KeyWrapper | None = None
    ) -> KeyRing:
        """The keys of a variable; the first is active unless ``active`` names another.

        Raises:
          SettingsError: as for :func:`from_file`.
        """
        pairs: list[tuple[str, str]] = []
        for item in re.split(r"[,\s]+", text.strip(", \t\n")):
            id, colon, value = item.partition(":")
            if not colon:
                raise SettingsError("the keys", HIDDEN, "must be ID:BASE64, separated by commas")
            pairs.append((id, value))
        keys = [_read(id, value, wrapper) for id, value in pairs]
        return cls(keys, pairs[0][0] if active is None else active)

    @classmethod
    def from_file(
        cls, path: Path, active: str | None = None, *, wrapper: KeyWrapper | None = None
    ) -> KeyRing:
        """The keys of a file; ``active`` wins over what the file says.

        Raises:
          SettingsError: the file can't be read, others may read it, it is no such TOML, a key is
            none or can't be unwrapped. Says nothing of a key but its id.
        """
        keys, named = read_file(path)
        return cls([_read(id, value, wrapper) for id, value in keys.items()], active or named)

    @classmethod
    def from_settings(cls, settings: EncryptionSettings) -> KeyRing | None:
        """The keys that the settings name; None: there are none.

        Raises:
          SettingsError: as :func:`from_text` and :func:`from_file`.
        """
        wrapper: KeyWrapper | None = None
        if settings.key_encryption_key is not None:
            wrapper = LocalKeyWrapper.from_text(settings.key_encryption_key.reveal())
        active = settings.active_key
        if settings.keys is not None:
            return cls.from_text(settings.keys.reveal(), active, wrapper=wrapper)
        if settings.key_file is not None:
            return cls.from_file(Path(settings.key_file), active, wrapper=wrapper)
        return None

    def get(self, id: str) -> Key | None:
        """The key of this name."""
        return self._keys.get(id)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeyRing(active={self.active.id!r}, keys={list(self._keys)})"


def new_key(wrapper: KeyWrapper | None = None) -> str:
    """A new random key as a variable or a file holds it, behind its id; wrapped if one can."""
    secret = secrets.token_bytes(KEY_BYTES)
    if wrapper is None:
        return base64.b64encode(secret).decode()
    return _WRAPPED + base64.b64encode(wrapper.wrap(secret)).decode()


def read_file(path: Path) -> tuple[dict[str, object], str]:
    """The texts of a file's keys by their ids, and the id of the active one.

    Raises:
      SettingsError: as for :meth:`KeyRing.from_file`, but for the keys themselves.
    """
    table = _table(path)
    keys, named = table.get("keys"), table.get("active")
    if table.keys() - {"keys", "active"} or not isinstance(keys, Mapping):
        rule = "must have a table [keys] and active, and nothing else"
        raise SettingsError("key file", str(path), rule)
    if not isinstance(named, str):
        raise SettingsError("key file", str(path), "must name the active key")
    return dict(keys), named


def _read(id: str, value: object, wrapper: KeyWrapper | None) -> Key:
    if not isinstance(value, str):
        raise SettingsError(f"key {id}", HIDDEN, "must be a text")
    wrapped = value.startswith(_WRAPPED)
    try:
        secret = base64.b64decode(value.removeprefix(_WRAPPED), validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError(f"key {id}", HIDDEN, "must be base64") from None
    if wrapped:
        if wrapper is None:
            raise SettingsError(f"key {id}", HIDDEN, "is wrapped, and nothing here can unwrap it")
        try:
            secret = wrapper.unwrap(secret)
        except UnwrapFailed as error:
            raise SettingsError(f"key {id}", HIDDEN, f"can't be unwrapped: {error}") from None
    return Key(id, secret)


def _table(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            _check_mode(path, os.fstat(file.fileno()))
            return tomllib.load(file)
    except OSError as error:
        rule = f"can't be read ({error.strerror})"
        raise SettingsError("key file", str(path), rule) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The parser's own words may quote a key.
        raise SettingsError("key file", str(path), "is no TOML") from None


def _check_mode(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & _FORBIDDEN_MODE:
        rule = f"must be closed to others (chmod 600), its mode is {mode:04o}"
        raise SettingsError("key file", str(path), rule)
