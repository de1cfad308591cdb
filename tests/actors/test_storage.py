from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from actors.errors import PermanentJobError
from actors.storage import Storage
from middleware.payload import RuleBroken
from tests.processes import ROOT


@pytest.fixture(params=["folder", "file URL", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    urls = {
        "folder": str(tmp_path),
        "file URL": tmp_path.as_uri(),
        "memory": f"memory://{uuid4().hex}",
    }
    return Storage(urls[request.param])


def test_what_was_written_is_read(storage: Storage) -> None:
    storage.write("a/b/photo.png", b"one")
    storage.write("a/b/photo.png", b"two")
    assert storage.read("a/b/photo.png") == b"two"


def test_a_missing_file_is_no_permanent_error(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("missing.png")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\..\\b", "s3://b/k", "a\0b"]
)
def test_a_path_out_of_the_storage_is_refused(storage: Storage, path: str) -> None:
    with pytest.raises(RuleBroken):
        storage.read(path)
    with pytest.raises(RuleBroken):
        storage.write(path, b"x")


def test_a_link_out_of_the_storage_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    storage = Storage(str(root))
    with pytest.raises(PermanentJobError, match="leads out"):
        storage.read("link/secret")
    with pytest.raises(PermanentJobError, match="leads out"):
        storage.write("link/new", b"x")
    assert not (outside / "new").exists()


def test_a_write_leaves_nothing_else(tmp_path: Path) -> None:
    Storage(str(tmp_path)).write("photo.png", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "photo.png").mkdir()  # a folder can't be replaced by a file
    with pytest.raises(OSError):
        Storage(str(tmp_path)).write("photo.png", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_writer_killed_in_the_middle_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"old")
    # More than a pipe of the kernel's own takes, so that the kill hits the write, not its end.
    program = (
        "import sys; from actors.storage import Storage\n"
        "storage = Storage(sys.argv[1]); print('go', flush=True)\n"
        "while True: storage.write('photo.png', b'n' * 50_000_000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"go\n"
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(".*headrace-part")) and time.monotonic() < deadline:
            os.sched_yield()
        writer.send_signal(signal.SIGKILL)
    content = (tmp_path / "photo.png").read_bytes()
    assert content in (b"old", b"n" * 50_000_000)


def test_stale_temporary_files_go_and_young_ones_and_others_stay(tmp_path: Path) -> None:
    token = uuid4().hex
    stale = tmp_path / "a" / f".photo.png.{token}.headrace-part"
    young = tmp_path / f".photo.png.{token}.headrace-part"
    other = tmp_path / "a" / ".hidden"
    stale.parent.mkdir()
    for path in (stale, young, other):
        path.write_bytes(b"x")
    for path in (stale, other):
        os.utime(path, (1, 1))
    assert Storage(str(tmp_path)).remove_temporary(older_than_ms=3_600_000) == 1
    assert not stale.exists()
    assert young.exists()
    assert other.exists()


def test_removing_from_a_storage_that_does_not_exist_yet_is_fine(tmp_path: Path) -> None:
    assert Storage(str(tmp_path / "none")).remove_temporary(older_than_ms=0) == 0


def test_an_unknown_kind_of_storage_is_permanent() -> None:
    with pytest.raises(PermanentJobError, match="STORAGE_URL"):
        Storage("nonsense://bucket")


def test_the_memory_storage_is_the_one_of_fsspec() -> None:
    name = uuid4().hex
    Storage(f"memory://{name}").write("x", b"1")
    assert fsspec.filesystem("memory").cat_file(f"/{name}/x") == b"1"


def test_files_are_listed_below_a_folder_and_removed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for path in ("a/b/one", "a/two", "ab/three"):
        storage.write(path, b"x")
    (tmp_path / "a" / f".half.{'0' * 32}.headrace-part").touch()
    assert storage.list("a") == ["a/b/one", "a/two"]
    assert storage.list("nowhere") == []
    storage.remove("a/two")
    storage.remove("a/two")
    assert storage.list("a") == ["a/b/one"]
    with pytest.raises(RuleBroken):
        storage.list("../a")
