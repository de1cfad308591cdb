"""Fire times against two independent libraries, and against what the clock shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from broker.cron import Cron
from broker.errors import InvalidOption

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "America/St_Johns",
]
#: Its clock moves by half an hour, which the libraries do not get right.
HALF_AN_HOUR = "Australia/Lord_Howe"
#: croniter takes its time, and the machine may be busy.
FEW = settings(max_examples=60, deadline=None)
#: The hours in which clocks change somewhere.
CHANGING_HOURS = 5


def fields(least: int, most: int) -> st.SearchStrategy[str]:
    """One field. No ranges of one value: croniter takes those for `*`."""
    values = st.lists(st.integers(least, most), min_size=1, max_size=3, unique=True)
    pairs = st.lists(st.integers(least, most), min_size=2, max_size=2, unique=True).map(sorted)
    return st.one_of(
        values.map(lambda found: ",".join(map(str, sorted(found)))),
        pairs.map(lambda pair: f"{pair[0]}-{pair[1]}"),
    )


def days() -> st.SearchStrategy[str]:
    """Day of month, month and day of week. The libraries differ on `*/2` in them."""
    star = st.just("*")
    return st.tuples(star | fields(1, 28), star | fields(1, 12), star | fields(0, 6)).map(" ".join)


def clock(first_hour: int = 0) -> st.SearchStrategy[str]:
    """Minute and hour."""
    minutes = st.one_of(st.sampled_from(["*", "*/7", "*/15", "3-59/20"]), fields(0, 59))
    hours = fields(first_hour, 23)
    if first_hour == 0:
        hours |= st.sampled_from(["*", "*/2", "*/5"])
    return st.tuples(minutes, hours).map(" ".join)


def instants() -> st.SearchStrategy[datetime]:
    begin, end = datetime(2014, 1, 1), datetime(2027, 1, 1)  # noqa: DTZ001 - hypothesis asks so
    return st.datetimes(begin, end, timezones=st.just(UTC))


def fires(cron: Cron, after: datetime) -> Iterator[datetime]:
    at_ms: int | None = round(after.timestamp() * 1000)
    while at_ms is not None:
        at_ms = cron.next_ms(at_ms)
        if at_ms is not None:
            yield datetime.fromtimestamp(at_ms / 1000, UTC)


def first(times: Iterator[datetime], count: int) -> list[datetime]:
    return [next(times).astimezone(UTC) for _ in range(count)]


def expression(minute_and_hour: str, day: str) -> str:
    return f"{minute_and_hour} {day}"


@FEW
@given(st.builds(expression, clock(), days()), instants())
def test_the_times_are_croniters(found: str, after: datetime) -> None:
    theirs = croniter(found, after)
    assert first(fires(Cron(found), after), 30) == [theirs.get_next(datetime) for _ in range(30)]


@FEW
@given(st.builds(expression, clock(CHANGING_HOURS), days()), instants(), st.sampled_from(ZONES))
def test_over_the_changes_of_the_clock_the_times_are_croniters(
    found: str, after: datetime, zone: str
) -> None:
    theirs = croniter(found, after.astimezone(ZoneInfo(zone)))
    expected = [theirs.get_next(datetime).astimezone(UTC) for _ in range(20)]
    assert first(fires(Cron(found, zone), after), 20) == expected


@lru_cache
def changes(zone: str, year: int) -> list[datetime]:
    """When the zone's clock changes in this year, to the hour."""
    hours = (datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(365 * 24))
    by_offset = groupby(hours, lambda at: at.astimezone(ZoneInfo(zone)).utcoffset())
    return [next(same) for _, same in by_offset][1:]


@FEW
@given(
    st.builds(expression, clock(), days()),
    st.sampled_from([zone for zone in ZONES if changes(zone, 2018)]),
    st.sampled_from([2016, 2018]),
    st.integers(0, 1),
    st.integers(1, 26),
)
def test_while_the_clock_changes_the_times_are_cronsims(
    found: str, zone: str, year: int, which: int, hours_before: int
) -> None:
    change = changes(zone, year)[which]
    # cronsim takes the first moment of a day without a midnight for its midnight: see below.
    assume(change.astimezone(ZoneInfo(zone)).hour != 1 or not begins_a_day(change, zone))
    after = change - timedelta(hours=hours_before)
    theirs = CronSim(found, after.astimezone(ZoneInfo(zone)))
    assert first(fires(Cron(found, zone), after), 40) == first(theirs, 40)


def begins_a_day(at: datetime, zone: str) -> bool:
    """Whether the clock showed another day right before."""
    days = {each.astimezone(ZoneInfo(zone)).date() for each in (at, at - timedelta(seconds=1))}
    return len(days) == 2


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("* */2 * * 0-1", "2016-10-16T04:00+00:00"),  # 2:00; at 1:00, the first, it does not match
        ("* 1 * * 0", "2016-10-16T03:00+00:00"),
        ("30 0 * * 0", "2016-10-16T03:00+00:00"),  # skipped: at the first moment after the gap
    ],
)
def test_a_day_without_a_midnight_begins_at_one(found: str, expected: str) -> None:
    before = datetime(2016, 10, 16, 2, tzinfo=UTC)  # the last hour of the day before
    times = fires(Cron(found, "America/Sao_Paulo"), before)
    assert next(times) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("day", [(2022, 10, 1), (2022, 4, 2)])
@pytest.mark.parametrize("found", ["*/20 * * * *", "* 0,4 * * *", "*/7 1-2 * * *"])
def test_by_the_clock_each_time_runs_as_often_as_the_clock_shows_it(
    found: str, day: tuple[int, int, int]
) -> None:
    zone, after = ZoneInfo(HALF_AN_HOUR), datetime(*day, tzinfo=UTC)
    cron, plain = Cron(found, HALF_AN_HOUR), Cron(found)
    minutes = (after + timedelta(minutes=n) for n in range(1, 2 * 24 * 60))
    shown = [at for at in minutes if _matches(plain, at.astimezone(zone))]
    assert first(fires(cron, after), len(shown)) == shown


def _matches(cron: Cron, wall: datetime) -> bool:
    at_ms = round(wall.replace(tzinfo=UTC).timestamp() * 1000)
    return cron.next_ms(at_ms - 1) == at_ms


def wall_times(found: str, zone: str, after: str, count: int) -> list[str]:
    times = fires(Cron(found, zone), datetime.fromisoformat(after))
    return [at.astimezone(ZoneInfo(zone)).isoformat() for at in first(times, count)]


def test_a_fixed_time_in_the_gap_runs_at_its_end_and_once() -> None:
    assert wall_times("10,40 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 3) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:10:00+02:00",
        "2026-03-30T02:40:00+02:00",
    ]


def test_a_fixed_time_that_comes_twice_runs_the_first_time() -> None:
    assert wall_times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


def test_a_day_without_midnight_has_its_daily_run() -> None:
    assert wall_times("@daily", "America/Sao_Paulo", "2018-11-03T12:00Z", 2) == [
        "2018-11-04T01:00:00-02:00",
        "2018-11-05T00:00:00-02:00",
    ]


def test_six_fields_begin_with_the_second() -> None:
    assert wall_times("*/20 * * * * *", "UTC", "2026-01-01T23:59:30Z", 3) == [
        "2026-01-01T23:59:40+00:00",
        "2026-01-02T00:00:00+00:00",
        "2026-01-02T00:00:20+00:00",
    ]


def test_the_latest_are_found_however_long_ago_it_began() -> None:
    now_ms = round(datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC).timestamp() * 1000)
    minute, daily = Cron("* * * * *"), Cron("30 6 * * *")
    assert minute.latest(0, now_ms, 2) == [now_ms - 90_000, now_ms - 30_000]
    assert daily.latest(now_ms - 3 * 86_400_000, now_ms, 100) == list(
        _from(daily, now_ms - 3 * 86_400_000, 3)
    )
    assert daily.latest(now_ms - 1_000, now_ms, 100) == []


def _from(cron: Cron, after_ms: int, count: int) -> Iterator[int]:
    times = fires(cron, datetime.fromtimestamp(after_ms / 1000, UTC))
    return (round(at.timestamp() * 1000) for at in first(times, count))


@pytest.mark.parametrize(
    "found",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 30 2 *",
        "0 0 * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 * * 1L/2",
        "@reboot",
        "a b c d e",
        "0 0 * * 1; rm",
    ],
)
def test_an_expression_that_is_none_is_named(found: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Cron(found)
    assert (caught.value.field, caught.value.value) == ("cron", found)


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "CEST+2"])
def test_a_time_zone_that_is_none_is_named(zone: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Cron("@daily", zone)
    assert (caught.value.field, caught.value.value) == ("timezone", zone)
