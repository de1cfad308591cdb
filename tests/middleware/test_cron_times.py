"""What periodiq is given, against periodiq's own specs: each of their faults is a test."""

from __future__ import annotations

import pendulum
import periodiq
import pytest

from broker.errors import InvalidOption
from middleware.periodic import cron

SUNDAY = pendulum.datetime(2026, 11, 29)
TUESDAY = pendulum.datetime(2026, 11, 24, 12)


@pytest.mark.parametrize("expression", ["@weekly", "0 0 * * 0", "0 0 * * sun", "0 0 * * 7"])
def test_a_sunday_is_a_sunday(expression: str) -> None:
    assert cron(expression).validate(SUNDAY)
    assert cron(expression).next_valid_date(TUESDAY) == SUNDAY


def test_periodiq_itself_has_no_sunday() -> None:
    # When this fails, periodiq has been mended.
    assert not periodiq.cron("@weekly").validate(SUNDAY)


def test_a_weekday_of_one_month() -> None:
    assert cron("0 0 * 6 1").next_valid_date(TUESDAY) == pendulum.datetime(2027, 6, 7)
    assert periodiq.cron("0 0 * 6 1").next_valid_date(TUESDAY) != pendulum.datetime(2027, 6, 7)


def test_the_time_zone_is_the_schedules_and_not_the_machines() -> None:
    spec = cron("30 7 * * *", timezone="Asia/Tokyo")
    found = spec.next_valid_date(TUESDAY)
    assert found == pendulum.datetime(2026, 11, 24, 22, 30)
    assert found.timezone_name == "Asia/Tokyo"
    assert spec.validate(found)
    assert spec.validate(pendulum.datetime(2026, 11, 24, 22, 30, 59))
    assert not spec.validate(pendulum.datetime(2026, 11, 24, 7, 30))


def test_it_reads_as_the_expression() -> None:
    assert str(cron("*/5 * * * *")) == "*/5 * * * *"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"expression": "61 * * * *"}, "cron"),
        ({"expression": None}, "cron"),
        ({"timezone": "Berlin"}, "timezone"),
        ({"timezone": 2}, "timezone"),
        ({"misfire": "never"}, "misfire"),
        ({"misfire_limit": 0}, "misfire_limit"),
        ({"misfire_limit": True}, "misfire_limit"),
        ({"misfire_limit": 100_000}, "misfire_limit"),
        ({"overlap": "queue"}, "overlap"),
    ],
)
def test_a_wrong_parameter_is_named(options: dict[str, object], field: str) -> None:
    arguments: dict[str, object] = {"expression": "* * * * *", **options}
    with pytest.raises(InvalidOption) as caught:
        cron(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
