"""evlog retain and evlog delete: what they take, print and end with, and what other commands make of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.cli import conftest
from tests.cli.conftest import Evlog, as_lines


@pytest.fixture
def ten(evlog: Evlog) -> Evlog:
    """Ten events in order-42."""
    evlog("append", "--lines", "order-42", "T", stdin=as_lines(range(1, 11)))
    return evlog


def kept(**settings: Any) -> dict[str, Any]:
    nothing = {"max_count": None, "max_age": None, "before": None, "deleted": False, "tombstone": False}
    return nothing | settings


def data(evlog: Evlog, *arguments: str) -> list[Any]:
    return [line["data"] for line in evlog("read", *arguments).lines]


def test_retain_prints_what_is_in_force_then(ten: Evlog) -> None:
    assert ten("retain", "order-42", "--max-count", "3").line == {"stream": "order-42", **kept(max_count=3)}
    assert data(ten, "order-42") == [8, 9, 10]
    assert len(data(ten)) == 10
    result = ten("retain", "--category", "order", "--max-age", "30d")
    assert result.line == {"category": "order", **kept(max_age=2_592_000)}
    both = {"stream": "order-42", **kept(max_count=3, max_age=2_592_000)}
    assert ten("retain", "order-42").line == both
    assert ten("retain", "order-42", "--before", "10").line == both | {"before": 10}
    assert data(ten, "order-42") == [10]
    assert ten("retain", "order-42", "--clear").line == both | {"max_count": None}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1.5h", 5400), ("1w", 604_800)],
)
def test_an_age_is_a_number_with_a_unit(evlog: Evlog, text: str, seconds: int) -> None:
    evlog("init")
    assert evlog("retain", "s", "--max-age", text).line["max_age"] == seconds


def test_retain_alone_lists_everything_that_is_set(ten: Evlog) -> None:
    assert ten("retain").lines == []
    ten("retain", "--category", "a", "--max-count", "1")
    ten("retain", "x", "--max-count", "2")
    ten("delete", "order-42")
    assert ten("retain").lines == [
        {"stream": "order-42", **kept(before=11, deleted=True)},
        {"stream": "x", **kept(max_count=2)},
        {"category": "a", **kept(max_count=1)},
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["s", "--category", "s", "--max-count", "1"], "give one of them"),
        (["--max-count", "1"], "STREAM is missing"),
        (["--clear"], "STREAM is missing"),
        (["s", "--max-count", "0"], "--max-count"),
        (["s", "--max-age", "soon"], "duration"),
        (["s", "--max-age", "0.5s"], "at least 1;"),
        (["s", "--max-age", "0"], "at least 1;"),
        (["s", "--before", "3"], "next event"),
        (["--category", "s", "--before", "1"], "no versions"),
        (["--category", "a-b", "--max-count", "1"], "invalid category"),
        (["$s", "--max-count", "1"], "reserved"),
    ],
)
def test_retain_refuses_what_makes_no_sense(evlog: Evlog, arguments: list[str], text: str) -> None:
    evlog("append", "s", "T")
    result = evlog("retain", *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, b"", 1)
    assert text in result.err


def test_delete_hides_the_stream_and_a_later_append_goes_on(ten: Evlog) -> None:
    assert ten("delete", "order-42").line == {"stream": "order-42", "version": 10, "tombstone": False}
    gone = ten("read", "order-42")
    assert (gone.code, gone.out) == (5, b"")
    assert ten("streams").lines == []
    assert ten("append", "order-42", "T", "1", "--expect", "exists").code == 3
    assert ten("append", "order-42", "T", "11", "--expect", "none").line["version"] == 11
    assert data(ten, "order-42") == [11]
    assert ten("delete", "order-42").line["version"] == 11
    assert ten("delete", "order-42").code == 0


def test_a_tombstone_refuses_appends_with_exit_code_3(ten: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ten("delete", "order-42", "--tombstone").line["tombstone"] is True
    assert ten("delete", "order-42").line == {"stream": "order-42", "version": 10, "tombstone": True}
    for arguments in (
        ["append", "order-42", "T"],
        ["append", "--lines", "order-42", "T"],
        ["retain", "order-42", "--clear"],
    ):
        result = ten(*arguments, stdin=b"1\n")
        assert (result.code, result.out, result.err.count("\n")) == (3, b"", 1)
        assert "permanently" in result.err
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    assert '"error":"StreamTombstoned"' in ten("append", "order-42", "T").err
    assert ten("read", "order-42").code == 5


def test_delete_of_a_stream_that_never_was_ends_with_exit_code_5(evlog: Evlog) -> None:
    evlog("init")
    for arguments in (["order-42"], ["order-42", "--tombstone"]):
        assert (evlog("delete", *arguments).code, evlog("info").line["last_position"]) == (5, 0)


@pytest.mark.parametrize("arguments", [["retain"], ["retain", "s", "--clear"], ["delete", "s"]])
def test_a_missing_store_is_not_made(evlog: Evlog, here: Any, arguments: list[str]) -> None:
    assert evlog(*arguments).code == 5
    assert list(here.iterdir()) == []


def test_streams_and_info_show_policies_and_deletions(ten: Evlog) -> None:
    ten("append", "order-43", "T")
    ten("append", "x", "T")
    ten("retain", "order-42", "--max-count", "3")
    ten("delete", "order-43")
    listed = ten("streams").lines
    assert [(line["stream"], line["events"], line["first_version"]) for line in listed] == [
        ("order-42", 3, 8),
        ("x", 1, 1),
    ]
    assert listed[0]["retention"] == kept(max_count=3)
    assert "retention" not in listed[1]
    every = ten("streams", "--deleted").lines
    assert [line["stream"] for line in every] == ["order-42", "order-43", "x"]
    assert every[1]["retention"]["deleted"] is True
    info = ten("info").line
    assert (info["events"], info["streams"], info["policies"], info["deleted_streams"]) == (12, 2, 1, 1)


def test_the_stores_own_events_come_out_where_their_stream_is_named(ten: Evlog) -> None:
    ten("retain", "order-42", "--max-count", "3")
    assert ten("read", "$$order-42").line["data"] == {"$maxCount": 3}
    assert all(not line["stream"].startswith("$") for line in ten("read").lines)
    assert [line["stream"] for line in ten("streams").lines] == ["order-42"]


on_terminal = partial(conftest.on_terminal, columns=120, NO_COLOR="1")


def test_terminals_get_tables(ten: Evlog) -> None:
    assert "every event is kept" in on_terminal("retain")
    assert "retention" not in on_terminal("streams")
    ten("retain", "order-42", "--max-count", "3", "--max-age", "36h")
    ten("retain", "--category", "order", "--max-age", "30d")
    ten("append", "x", "T")
    ten("append", "y", "T")
    ten("delete", "y", "--tombstone")
    heading, *rows = [line.split() for line in on_terminal("retain").splitlines()]
    assert heading == ["stream", "category", "max_count", "max_age", "before", "deleted", "tombstone"]
    assert rows == [["order-42", "3", "36h"], ["y", "2", "yes", "yes"], ["order", "30d"]]
    drawn = on_terminal("streams", "--deleted")
    assert drawn.splitlines()[0].split() == [
        *("stream", "events", "first_version", "last_version", "last_time", "retention"),
    ]
    assert "max_count 3, max_age 36h" in drawn
    assert on_terminal("delete", "x") == "deleted x up to version 1\n"
    assert on_terminal("delete", "x", "--tombstone") == "deleted x up to version 1, permanently\n"
    assert "deleted_streams      2\n" in on_terminal("info")
