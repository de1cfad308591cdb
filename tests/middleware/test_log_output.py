"""How lines get out: in groups under load, at once when they matter, always in order."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator

import pytest

from middleware.log_output import JOBS, LineWriter
from tests.contract.recording import Seen
from tests.waiting import wait_for


class Stream(io.StringIO):
    """Keeps each write apart; may be held up in one, and may be gone."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise BrokenPipeError
        self.reached.set()
        wait_for(self.open, "the stream's opening")
        self.seen.add(text.splitlines())
        return len(text)


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def writer(stream: Stream) -> Iterator[LineWriter]:
    made = LineWriter(stream)
    yield made
    made.end()


def log(writer: LineWriter, text: str, *, name: str = JOBS, level: int = logging.INFO) -> None:
    writer.handle(logging.LogRecord(name, level, "", 0, text, None, None))


def test_an_idle_processs_line_is_written_by_itself(writer: LineWriter, stream: Stream) -> None:
    log(writer, "a")
    assert stream.seen.next() == ["a"]
    log(writer, "b")
    assert stream.seen.next() == ["b"]


def test_load_makes_groups_and_keeps_the_order(writer: LineWriter, stream: Stream) -> None:
    stream.open.clear()
    log(writer, "first")
    wait_for(stream.reached, "the first write")

    def work() -> None:
        for n in range(1_000):
            log(writer, str(n))

    writing = threading.Thread(target=work)
    writing.start()
    stream.open.set()
    writing.join()
    log(writer, "last", level=logging.ERROR)
    groups = [stream.seen.next()]
    while groups[-1][-1] != "last":
        groups.append(stream.seen.next())
    lines = [line for group in groups for line in group]
    assert lines == ["first", *map(str, range(1_000)), "last"]
    assert len(groups) < 1_000


@pytest.mark.parametrize(
    ("name", "level"), [(JOBS, logging.ERROR), (JOBS, logging.DEBUG), ("lib", logging.INFO)]
)
def test_what_may_be_the_last_line_before_a_crash_does_not_wait(
    writer: LineWriter, stream: Stream, name: str, level: int
) -> None:
    with writer.lock or threading.RLock():  # the thread can't write meanwhile
        log(writer, "a")
        log(writer, "b", name=name, level=level)
        assert stream.seen.next() == ["a", "b"]


def test_at_the_end_nothing_waits(writer: LineWriter, stream: Stream) -> None:
    with writer.lock or threading.RLock():
        log(writer, "a")
        writer.end()
        assert stream.seen.next() == ["a"]
        log(writer, "b")
        assert stream.seen.next() == ["b"]


def test_a_forked_process_writes_its_own_lines_at_once(stream: Stream) -> None:
    read, written = os.pipe()
    with os.fdopen(written, "w") as pipe, os.fdopen(read) as reader:
        writer = LineWriter(pipe)
        writer.acquire()
        log(writer, "parent")
        child = os.fork()
        if child == 0:
            log(writer, "child")
            os._exit(0)
        os.waitpid(child, 0)
        writer.release()
        writer.end()
        pipe.close()
        assert reader.read().splitlines() == ["child", "parent"]


def test_a_stream_that_has_gone_stops_nobody(
    writer: LineWriter, stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    stream.gone = True
    for _ in range(1_000):
        log(writer, "a")
    log(writer, "b", level=logging.ERROR)
    assert "BrokenPipeError" in capsys.readouterr().err
    stream.gone = False
