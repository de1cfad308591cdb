"""Files by relative path, in a local folder or wherever an fsspec URL points to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import fsspec

from actors.errors import PermanentJobError
from actors.payloads import check_path

# What a result is called until it is whole.
_TEMPORARY: Final = re.compile(r"^\..+\.[0-9a-f]{32}\.headrace-part$")


class Storage:
    """A folder of files. Paths are relative to it and can't leave it.

    Every write is whole or absent: the bytes go to a temporary name in the same folder
    and are moved over the final one, which on a local disk is one atomic rename (an
    object store shows an object only when it is complete). So a repeat does no harm.
    """

    def __init__(self, url: str) -> None:
        """Take the folder; nothing is opened.

        Raises:
          PermanentJobError: the URL's kind of storage is unknown or its package missing.
        """
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise PermanentJobError(f"STORAGE_URL: {error}") from error
        self._root = str(root).rstrip("/")
        self._local = "file" in _protocols(self._fs)

    def read(self, path: str) -> bytes:
        """The file's bytes.

        Raises:
          RuleBroken, PermanentJobError: the path leaves the storage.
          OSError: it isn't there or can't be read; both may change.
        """
        data: bytes = self._fs.cat_file(self._inside(path))
        return data

    def write(self, path: str, data: bytes) -> None:
        """Put the file there, replacing the one before; readers see the old or the new one.

        Raises as :meth:`read`.
        """
        target = self._inside(path)
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}.{uuid4().hex}.headrace-part"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            with self._fs.open(temporary, "wb") as file:
                file.write(data)
                self._to_disk(file)
            self._replace(temporary, target)
        except BaseException:
            # Also on an interrupt. A killed process leaves it to remove_temporary_files.
            with suppress(OSError):
                self._fs.rm_file(temporary)
            raise

    def list(self, folder: str) -> list[str]:
        """The paths of all files below a folder, sorted; none if there is no such folder.

        Unfinished ones are left out. Raises as :meth:`read`.
        """
        start = self._inside(folder)
        if not self._fs.isdir(start):
            return []
        found = (str(path) for path in self._fs.find(start))
        inside = (path[len(start) - len(folder) :] for path in found)
        return sorted(path for path in inside if not _TEMPORARY.match(path.rpartition("/")[2]))

    def remove(self, path: str) -> None:
        """Remove the file; one that isn't there is fine. Raises as :meth:`read`."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._inside(path))

    def remove_temporary(self, *, older_than_ms: int) -> int:
        """Remove unfinished files of that age; returns how many.

        One that vanishes meanwhile is fine.
        """
        latest = datetime.now(UTC) - timedelta(milliseconds=older_than_ms)
        removed = 0
        for path in self._temporaries():
            with suppress(FileNotFoundError):
                if self._modified(path) < latest:
                    self._fs.rm_file(path)
                    removed += 1
        return removed

    def _temporaries(self) -> Iterator[str]:
        for folder, _, files in self._fs.walk(self._root):
            for name in files:
                if _TEMPORARY.match(name):
                    yield f"{folder.rstrip('/')}/{name}"

    def _modified(self, path: str) -> datetime:
        at: datetime = self._fs.modified(path)
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)

    def _inside(self, path: str) -> str:
        check_path(path, "$")
        full = f"{self._root}/{path}"
        if self._local and not Path(full).resolve().is_relative_to(Path(self._root).resolve()):
            # A symbolic link on the way.
            raise PermanentJobError(f"{path!r} leads out of the storage")
        return full

    def _replace(self, temporary: str, target: str) -> None:
        if self._local:
            Path(temporary).replace(target)
        else:
            self._fs.mv(temporary, target)

    def _to_disk(self, file: Any) -> None:
        # Before the rename, or a power cut could leave an empty file under the final name.
        if self._local:
            file.flush()
            os.fsync(file.fileno())


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
