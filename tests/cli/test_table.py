"""Tables: what lines up, what gives way, what is never cut."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

import evlog as library
from evlog.cli._support import console
from evlog.cli._support.output import TableForm
from evlog.cli._support.table import _fitted, draw_table
from tests.cli.conftest import Evlog

Columns = Callable[[int], None]


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Columns]:
    monkeypatch.setattr(console, "has_colour", lambda: False)
    monkeypatch.setattr(console, "stdout_is_terminal", lambda: True)

    def set_columns(columns: int) -> None:
        monkeypatch.setattr(os, "get_terminal_size", lambda _fd: os.terminal_size((columns, 24)))

    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield set_columns
    time.tzset()


def event(position: int, stream: str = "order-1", type: str = "Paid", data: bytes = b"{}") -> library.Event:
    return library.Event((position, 1, stream, type, bytes(16), 1_800_000_000_000_000, 0, data, b""))


def live(*, one_stream: bool = False) -> TableForm:
    return TableForm(None, one_stream=one_stream, live=True)


def drawn(table: TableForm, *events: library.Event) -> list[str]:
    return table.draw(events).decode().splitlines()


def place_of(text: str, *lines: str) -> int:
    (place,) = {line.index(text) for line in lines}
    return place


def rows_of(rows: list[list[str]], names: tuple[str, ...] = ("version", "stream", "data")) -> list[str]:
    return b"".join(draw_table(names, rows)).decode().splitlines()


def test_numbers_are_aligned_to_the_right() -> None:
    assert rows_of([["1", "a", "x"], ["1000000000", "b", "y"]]) == [
        "   version  stream  data",
        "         1  a       x",
        "1000000000  b       y",
    ]


def test_wide_characters_count_for_what_they_take() -> None:
    assert rows_of([["1", "日本", "x"], ["1", "abcdef", "y"]])[1] == "      1  日本    x"


def test_no_rows_are_no_table() -> None:
    assert rows_of([]) == []


def test_a_terminal_gets_lines_that_fit(columns: Columns) -> None:
    columns(40)
    lines = rows_of([["1", "s" * 60, "d" * 60], ["2", "short", "short"]])
    assert max(map(len, lines)) == 40
    assert "…" in lines[1]
    assert lines[2].split() == ["2", "short", "short"]


@pytest.mark.parametrize(
    ("widths", "columns", "fitted"),
    [
        ([5, 10, 20], None, [5, 10, 20]),
        ([5, 10, 20], 39, [5, 10, 20]),
        ([5, 10, 90], 40, [5, 10, 21]),
        ([5, 30, 90], 40, [5, 15, 16]),
        ([5, 30, 10], 40, [5, 21, 10]),
        ([5, 10, 10**9], 40, [5, 10, 21]),
        ([10**9, 10**9, 10**9], 40, [12, 12, 12]),
        ([5, 5, 5], 4, [1, 1, 1]),
        ([5, 5, 5], 0, [1, 1, 1]),
    ],
)
def test_the_last_column_gives_way_first_then_the_widest(
    widths: list[int], columns: int | None, fitted: list[int]
) -> None:
    assert [*_fitted(dict(zip("abc", widths, strict=True)), columns).values()] == fitted


@pytest.mark.parametrize("width", [100, 80, 70, 62])
def test_numbers_and_times_are_not_cut(width: int) -> None:
    widths = {"position": 8, "stream": 30, "version": 7, "type": 30, "time": 22, "data": 200}
    fitted = _fitted(widths, width)
    assert sum(fitted.values()) + 2 * 5 == width
    assert (fitted["position"], fitted["version"], fitted["time"]) == (8, 7, 22)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_later_rows_line_up_with_earlier_ones(columns: Columns, width: int) -> None:
    columns(width)
    table = live()
    heading, first = drawn(table, event(1))
    (second,) = drawn(table, event(12_345_678, "order-10", "OrderCancelled"))
    assert place_of("2027-01-15 08:00:00+00", first, second) == heading.index("time")
    assert place_of("{}", first, second) == heading.index("data")


def test_a_longer_name_makes_room_for_itself_once(columns: Columns) -> None:
    columns(120)
    table = live()
    drawn(table, event(1))
    heading, long, after = drawn(table, event(2, "customer-with-a-long-name"), event(3))
    assert "customer-with-a-long-name" in long
    assert place_of("{}", long, after, *drawn(table, event(4))) == heading.index("data")


def test_a_name_is_cut_before_the_data_has_no_room(columns: Columns) -> None:
    columns(80)
    _, row = drawn(live(), event(1, "s" * 100, "t" * 100, b'"' + b"d" * 100 + b'"'))
    assert len(row) == 80
    assert row.count("…") == 3
    assert row.endswith("ddd…")


def test_positions_are_never_cut(columns: Columns) -> None:
    columns(60)
    _, row = drawn(live(), event(123_456_789_012))
    assert row.startswith("123456789012  ")


@pytest.mark.parametrize("is_live", [False, True])
def test_a_narrow_terminal_shows_no_version_beside_streams(columns: Columns, is_live: bool) -> None:
    columns(80)
    heading, row = drawn(TableForm(None, one_stream=False, live=is_live), event(1))
    assert heading.split() == ["position", "stream", "type", "time", "data"]
    assert "  2027-01-15 08:00:00+00  " in row
    columns(100)
    heading, _ = drawn(TableForm(None, one_stream=False, live=is_live), event(1))
    assert heading.split() == ["position", "stream", "version", "type", "time", "data"]


@pytest.mark.parametrize("one_stream", [False, True])
def test_a_very_narrow_terminal_shows_no_time(columns: Columns, evlog: Evlog, one_stream: bool) -> None:
    name = "a-long-name-of-16"
    evlog("append", name, "T")
    for width in (59, 60):
        columns(width)
        heading, row = drawn(TableForm(None, one_stream=one_stream, live=False), event(1, "order-1", "Paid"))
        assert ("time" in heading) is ("2027" in row) is (width == 60)
        assert "Paid  " in row
        assert ("last_time" in evlog("streams", "-o", "table").out.decode()) is (width == 60)
        assert ("time" in evlog("trace", "1", "-o", "tree").out.decode().split()) is (width == 60)
    columns(40)
    assert name in evlog("streams", "-o", "table").out.decode()
    assert "time" in evlog("streams", "-o", "table", "--fields", "stream,last_time").out.decode()


def test_a_narrow_terminal_shows_the_names_of_streams_beside_their_rules(
    columns: Columns, evlog: Evlog
) -> None:
    name = "order-2026-11-1"
    evlog("append", name, "T")
    evlog("retain", name, "--max-count", "1")
    for width, shown in ((80, []), (100, ["first_version"])):
        columns(width)
        heading, row = evlog("streams", "-o", "table").out.decode().splitlines()
        assert heading.split() == ["stream", "events", *shown, "last_version", "last_time", "retention"]
        assert row.startswith(f"{name} ")
        assert row.endswith("max_count 1")
        assert "first_version" in evlog("streams", "-o", "table", "--fields", "first_version").out.decode()


@pytest.mark.parametrize("is_live", [False, True])
def test_one_stream_is_not_named_in_every_row(columns: Columns, is_live: bool) -> None:
    columns(80)
    heading, row = drawn(TableForm(None, one_stream=True, live=is_live), event(1))
    assert heading.split() == ["position", "version", "type", "time", "data"]
    assert "order-1" not in row


def test_another_size_is_another_table(columns: Columns) -> None:
    table = live()
    columns(120)
    assert len(drawn(table, event(1))) == 2
    assert len(drawn(table, event(2))) == 1
    columns(80)
    heading, row = drawn(table, event(3, data=b"x" * 100))
    assert "version" not in heading
    assert len(row) == 80
    columns(78)
    assert len(drawn(table, event(4))) == 1


@pytest.mark.parametrize("width", [1, 5, 20])
def test_no_terminal_is_too_narrow(columns: Columns, width: int) -> None:
    columns(width)
    assert len(drawn(live(), event(1))) == 2


def test_a_heading_alone_comes_once(columns: Columns) -> None:
    columns(80)
    table = live()
    assert table.heading().decode().split() == ["position", "stream", "type", "time", "data"]
    assert len(drawn(table, event(1))) == 1
