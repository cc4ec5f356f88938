from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evlog.cli._support import console
from evlog.cli._support.output import _fitted, draw_table


def drawn(rows: list[list[str]], names: tuple[str, ...] = ("version", "stream", "data")) -> list[str]:
    return b"".join(draw_table(names, rows)).decode().splitlines()


def test_what_is_written_now_comes_after_what_was_written_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        console.write(b"1")
        console.write_now(b"2")
        assert (tmp_path / "out").read_bytes() == b"12"


def test_numbers_are_aligned_to_the_right() -> None:
    assert drawn([["1", "a", "x"], ["1000000000", "b", "y"]]) == [
        "   version  stream  data",
        "         1  a       x",
        "1000000000  b       y",
    ]


def test_wide_characters_count_for_what_they_take() -> None:
    rows = drawn([["1", "日本", "x"], ["1", "abcdef", "y"]])
    assert rows[1] == "      1  日本    x"


def test_no_rows_are_no_table() -> None:
    assert drawn([]) == []


def test_a_terminal_gets_lines_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(console, "stdout_is_terminal", lambda: True)
    monkeypatch.setattr(console, "has_colour", lambda: False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _fd: os.terminal_size((40, 24)))
    lines = drawn([["1", "s" * 60, "d" * 60], ["2", "short", "short"]])
    assert max(map(len, lines)) == 40
    assert all("…" in line for line in lines[1:2])
    assert lines[2].split() == ["2", "short", "short"]


@pytest.mark.parametrize(
    ("widths", "columns", "fitted"),
    [
        ([5, 10, 20], None, [5, 10, 20]),
        ([5, 10, 20], 39, [5, 10, 20]),
        ([5, 10, 90], 40, [5, 10, 21]),
        ([5, 30, 90], 40, [5, 15, 16]),
        ([5, 30, 10], 40, [5, 21, 10]),
        ([5, 5, 5], 4, [1, 1, 1]),
        ([5, 5, 5], 0, [1, 1, 1]),
    ],
)
def test_the_last_column_gives_way_first_then_the_widest(
    widths: list[int], columns: int | None, fitted: list[int]
) -> None:
    assert _fitted(["a", "b", "c"], widths, columns) == fitted


@pytest.mark.parametrize("columns", [80, 70, 60])
def test_numbers_and_the_time_of_day_are_cut_last(columns: int) -> None:
    names = ["position", "stream", "version", "type", "time", "data"]
    widths = [8, 30, 7, 30, 19, 200]
    fitted = _fitted(names, widths, columns)
    assert sum(fitted) + 2 * 5 <= columns
    assert (fitted[0], fitted[2], fitted[4]) == (8, 7, 14)
    assert _fitted(names, [8, 8, 7, 8, 19, 200], 100)[4] == 19
