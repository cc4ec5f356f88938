"""Times for people say their zone, and can be given back as WHEN."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from evlog.cli._support import console
from evlog.cli._support.clock import readable_time
from evlog.model.events import moment_of
from evlog.model.when import parse_when

WINTER_US = 1_800_000_000_123_456  # 2027-01-15 08:00:00 UTC
SUMMER_US = 1_815_638_400_000_000  # 2027-07-15 08:00:00 UTC


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(console, "stdout_is_terminal", lambda: True)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "winter", "summer"),
    [
        ("UTC", "2027-01-15 08:00:00+00", "2027-07-15 08:00:00+00"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2027-01-15 09:00:00+01", "2027-07-15 10:00:00+02"),
        ("EST5EDT,M3.2.0,M11.1.0", "2027-01-15 03:00:00-05", "2027-07-15 04:00:00-04"),
        ("IST-5:30", "2027-01-15 13:30:00+05:30", "2027-07-15 13:30:00+05:30"),
        ("NST3:30", "2027-01-15 04:30:00-03:30", "2027-07-15 04:30:00-03:30"),
    ],
    indirect=["zone"],
)
def test_a_terminal_shows_local_times_with_their_distance_from_utc(
    zone: None, winter: str, summer: str
) -> None:
    assert (readable_time(WINTER_US), readable_time(SUMMER_US)) == (winter, summer)
    assert parse_when(readable_time(SUMMER_US), datetime.now(UTC)) == moment_of(SUMMER_US)
    exact = readable_time(WINTER_US, exact=True)
    assert exact == winter[:19] + ".123456" + winter[19:]


def test_a_pipe_gets_utc() -> None:
    assert readable_time(WINTER_US) == "2027-01-15 08:00:00Z"
    assert readable_time(WINTER_US, exact=True) == "2027-01-15 08:00:00.123456Z"


def test_a_year_that_no_calendar_has_is_shown_all_the_same() -> None:
    assert readable_time(10**24) == str(10**24)
