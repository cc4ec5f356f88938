from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from evlog.errors import InvalidArgument
from evlog.model.when import parse_duration, parse_when

NOW = datetime(2026, 11, 23, 10, 51, 0, 123456, tzinfo=UTC)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the local time zone."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23", "2026-11-22T20:00:00+00:00"),
        ("2026-11-23T10:51", "2026-11-23T06:51:00+00:00"),
        ("2026-11-23T10:51Z", "2026-11-23T10:51:00+00:00"),
        ("today", "2026-11-22T20:00:00+00:00"),
        ("yesterday 10:51", "2026-11-22T06:51:00+00:00"),
        ("14:00", "2026-11-23T10:00:00+00:00"),
        ("-1h", "2026-11-23T09:51:00.123456+00:00"),
    ],
)
def test_a_time_without_a_zone_is_local_time(text: str, moment: str, zone: Callable[[str], None]) -> None:
    zone("<+04>-4")
    assert parse_when(text, NOW) == datetime.fromisoformat(moment)


def test_a_capital_m_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidArgument, match="minutes are m, and a month has no fixed length"):
        parse_when("6M", NOW)
    with pytest.raises(InvalidArgument, match="minutes are m, and a month has no fixed length"):
        parse_duration("6M")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-11-23T10:51:00.123456+00:00"),
        ("NOW", "2026-11-23T10:51:00.123456+00:00"),
        ("today", "2026-11-23T00:00:00+00:00"),
        ("yesterday", "2026-11-22T00:00:00+00:00"),
        ("-90s", "2026-11-23T10:49:30.123456+00:00"),
        ("-15m", "2026-11-23T10:36:00.123456+00:00"),
        ("-2h", "2026-11-23T08:51:00.123456+00:00"),
        ("-7d", "2026-11-16T10:51:00.123456+00:00"),
        ("-1w", "2026-11-16T10:51:00.123456+00:00"),
        ("1h", "2026-11-23T09:51:00.123456+00:00"),
        ("15m", "2026-11-23T10:36:00.123456+00:00"),
        ("-1h30m", "2026-11-23T09:21:00.123456+00:00"),
        ("-1.5h", "2026-11-23T09:21:00.123456+00:00"),
        ("10:50", "2026-11-23T10:50:00+00:00"),
        ("10:50:30", "2026-11-23T10:50:30+00:00"),
        ("today 09:00", "2026-11-23T09:00:00+00:00"),
        ("yesterday 10:51", "2026-11-22T10:51:00+00:00"),
        ("Yesterday  10:51", "2026-11-22T10:51:00+00:00"),
        ("@1700000000", "2023-11-14T22:13:20+00:00"),
        ("@1700000000.5", "2023-11-14T22:13:20.500000+00:00"),
        ("2026-11-23", "2026-11-23T00:00:00+00:00"),
        ("2026-11-23T10:51", "2026-11-23T10:51:00+00:00"),
        ("2026-11-23 10:51:00.5Z", "2026-11-23T10:51:00.500000+00:00"),
        ("2026-11-23T10:51:00+02:00", "2026-11-23T08:51:00+00:00"),
    ],
)
def test_a_when_is_a_moment_in_utc(text: str, moment: str, zone: Callable[[str], None]) -> None:
    zone("UTC")
    assert parse_when(text, NOW) == datetime.fromisoformat(moment)
    assert parse_when(text, NOW).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-15",
        "-m",
        "1 hour ago",
        "6M",
        "-6M",
        "1h6M",
        "25:00",
        "today today",
        "yesterday 2026-11-01",
        "@",
        "@-1",
        "@1e400",
        "@99999999999999",
        "--15m",
        "-1y",
        "2026-13-01",
        "2026-11-23T25:00",
        "-999999999999d",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid time .*; use ISO 8601 .*-1h"):
        parse_when(text, NOW)


def test_a_year_before_the_first_is_refused_and_no_crash() -> None:
    with pytest.raises(InvalidArgument):
        parse_when("0001-01-01T00:00:00+14:00", NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("0.5", 0.5),
        (" 30s ", 30),
        ("10m", 600),
        ("1.5h", 5400),
        ("2H", 7200),
        ("7d", 604800),
        ("2w", 1209600),
        ("1h30m", 5400),
        ("1D12H", 129600),
    ],
)
def test_a_duration_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "-15m", "1y", "10ms", "1e3", "1 h", "6M", "1h6M", "\u0661s", "999999999w"]
)
def test_any_other_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid duration .*; use seconds such as 90"):
        parse_duration(text)
