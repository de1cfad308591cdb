"""The journal and what is computed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.demo.journal import Event, JournalReader, JournalWriter
from bench.demo.report import percentile


def test_events_are_read_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    writer, reader = JournalWriter(path), JournalReader(path)
    assert reader.read() == []
    first = Event(kind="start", at_ms=1, pid=2, message_id="m", queue="q")
    second = Event(kind="done", at_ms=2, pid=2, message_id="m", queue="q")
    writer.write(first)
    assert reader.read() == [first]
    writer.write(second)
    assert reader.read() == [second]
    assert reader.read() == []


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    JournalWriter(path).write(Event(kind="boot", at_ms=1, pid=2))
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    reader = JournalReader(path)
    assert reader.read() == []
    path.write_bytes(whole)
    assert [event.kind for event in reader.read()] == ["boot"]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([7], 99, 7), ([1, 2, 3, 4], 50, 2), (list(range(1, 101)), 99, 99)],
)
def test_percentiles_are_measured_values(
    values: list[int], percent: int, expected: int | None
) -> None:
    assert percentile(values, percent) == expected
