"""Changing a key file: in one step, and closed to others from its first byte on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from broker.configuration import HIDDEN
from broker.errors import SettingsError
from middleware.keyring import KeyRing, new_key, read_file


def add_key(path: Path, id: str) -> str:
    """Add a new key; returns the id of the active one: the new one's in a new file only.

    Raises:
      SettingsError: the file is none, or has a key of this id. It is as it was.
    """
    keys, active = read_file(path) if path.exists() else ({}, id)
    if id in keys:
        raise SettingsError("--id", id, "must be new to the file")
    text = new_key()
    KeyRing.from_text(f"{id}:{text}")  # checks the id
    _write(path, {**keys, id: text}, active)
    return active


def activate(path: Path, id: str) -> None:
    """Seal by this key from the next start of each process on.

    Raises:
      SettingsError: the file is none, or has no such key. It is as it was.
    """
    keys, _ = read_file(path)
    if id not in keys:
        raise SettingsError("KEY", id, f"must be one of the file's: {', '.join(keys)}")
    _write(path, keys, id)


def _write(path: Path, keys: Mapping[str, object], active: str) -> None:
    target = path.resolve()
    mode = target.stat().st_mode if target.exists() else None
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_toml(keys, active))
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.fchmod(file.fileno(), mode & 0o777)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _toml(keys: Mapping[str, object], active: str) -> str:
    lines = [f'active = "{_plain(active)}"', "", "[keys]"]
    lines += [f'"{_plain(id)}" = "{_plain(text)}"' for id, text in keys.items()]
    return "\n".join([*lines, ""])


def _plain(text: object) -> str:
    # Ids and base64 need no escape, and nothing else belongs here.
    if not isinstance(text, str) or any(sign in text for sign in '"\\\n\r'):
        raise SettingsError("key file", HIDDEN, "must hold ids and base64")
    return text
