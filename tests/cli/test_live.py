"""The table of a live tail: what lines up, what gives way, what is never cut."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import evlog as library
from evlog.cli._support import console
from evlog.cli._support.live import LiveTable

Draw = Callable[..., list[str]]


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    monkeypatch.setattr(console, "has_colour", lambda: False)

    def set_columns(columns: int) -> None:
        monkeypatch.setattr(os, "get_terminal_size", lambda _fd: os.terminal_size((columns, 24)))

    return set_columns


def event(position: int, stream: str = "order-1", type: str = "Paid", data: bytes = b"{}") -> library.Event:
    return library.Event((position, 1, stream, type, bytes(16), 1_800_000_000_000_000, 0, data, b""))


def drawn(table: LiveTable, *events: library.Event) -> list[str]:
    return table.draw(events).decode().splitlines()


def place_of(text: str, *lines: str) -> int:
    (place,) = {line.index(text) for line in lines}
    return place


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_later_rows_line_up_with_earlier_ones(columns: Callable[[int], None], width: int) -> None:
    columns(width)
    table = LiveTable(one_stream=False)
    heading, first = drawn(table, event(1))
    (second,) = drawn(table, event(12_345_678, "order-10", "OrderCancelled"))
    assert place_of("2027-01-15" if width >= 100 else "01-15", first, second) == heading.index("time")
    assert place_of("{}", first, second) == heading.index("data")


def test_a_longer_name_makes_room_for_itself_once(columns: Callable[[int], None]) -> None:
    columns(120)
    table = LiveTable(one_stream=False)
    drawn(table, event(1))
    heading, long, after = drawn(table, event(2, "customer-with-a-long-name"), event(3))
    assert "customer-with-a-long-name" in long
    assert place_of("{}", long, after, *drawn(table, event(4))) == heading.index("data")


def test_a_name_is_cut_before_the_data_has_no_room(columns: Callable[[int], None]) -> None:
    columns(80)
    table = LiveTable(one_stream=False)
    _, row = drawn(table, event(1, "s" * 100, "t" * 100, b'"' + b"d" * 100 + b'"'))
    assert len(row) == 80
    assert row.count("…") == 3
    assert row.endswith("ddd…")


def test_positions_are_never_cut(columns: Callable[[int], None]) -> None:
    columns(40)
    _, row = drawn(LiveTable(one_stream=False), event(123_456_789_012))
    assert row.startswith("123456789012  ")


def test_a_narrow_terminal_leaves_out_the_year_and_the_version(columns: Callable[[int], None]) -> None:
    columns(80)
    heading, row = drawn(LiveTable(one_stream=False), event(1))
    assert heading.split() == ["position", "stream", "type", "time", "data"]
    assert "  01-15 08:00:00  " in row


def test_one_stream_is_not_named_in_every_row(columns: Callable[[int], None]) -> None:
    columns(80)
    heading, row = drawn(LiveTable(one_stream=True), event(1))
    assert heading.split() == ["position", "version", "type", "time", "data"]
    assert "order-1" not in row


def test_another_size_is_another_table(columns: Callable[[int], None]) -> None:
    table = LiveTable(one_stream=False)
    columns(120)
    assert len(drawn(table, event(1))) == 2
    assert len(drawn(table, event(2))) == 1
    columns(80)
    heading, row = drawn(table, event(3, data=b"x" * 100))
    assert "version" not in heading
    assert len(row) == 80
    columns(70)
    assert len(drawn(table, event(4))) == 1


def test_wide_characters_count_for_what_they_take(columns: Callable[[int], None]) -> None:
    columns(120)
    heading, wide, plain = drawn(LiveTable(one_stream=False), event(1, "日本"), event(2, "ab"))
    assert wide.index("Paid") == plain.index("Paid") - 2
    assert heading.index("type") == plain.index("Paid")


@pytest.mark.parametrize("width", [1, 5, 20])
def test_no_terminal_is_too_narrow(columns: Callable[[int], None], width: int) -> None:
    columns(width)
    assert len(drawn(LiveTable(one_stream=False), event(1))) == 2
