from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evlog.cli._support.when import parse_duration, parse_when
from evlog.errors import InvalidArgument

NOW = datetime(2026, 11, 23, 10, 51, 0, 123456, tzinfo=UTC)


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
        ("2026-11-23", "2026-11-23T00:00:00+00:00"),
        ("2026-11-23T10:51", "2026-11-23T10:51:00+00:00"),
        ("2026-11-23 10:51:00.5Z", "2026-11-23T10:51:00.500000+00:00"),
        ("2026-11-23T10:51:00+02:00", "2026-11-23T08:51:00+00:00"),
    ],
)
def test_a_when_is_a_moment_in_utc(text: str, moment: str) -> None:
    assert parse_when(text, NOW) == datetime.fromisoformat(moment)
    assert parse_when(text, NOW).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "15m",
        "-15",
        "-m",
        "-1.5h",
        "--15m",
        "-1y",
        "2026-13-01",
        "2026-11-23T25:00",
        "-999999999999d",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no time; give ISO 8601"):
        parse_when(text, NOW)


def test_a_year_before_the_first_is_refused_and_no_crash() -> None:
    with pytest.raises(InvalidArgument):
        parse_when("0001-01-01T00:00:00+14:00", NOW)


def test_the_present_is_the_clocks_if_none_is_given() -> None:
    before = datetime.now(UTC)
    assert before <= parse_when("now") <= datetime.now(UTC)


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
    ],
)
def test_a_duration_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "-15m", "1y", "10ms", "1e3", "1 h", "1h30m", "\u0661s", "999999999w"]
)
def test_any_other_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no duration; give seconds such as 90"):
        parse_duration(text)
