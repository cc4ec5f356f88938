"""SQL: views, what of the store a query reads, and what a query cannot do."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evlog import Event, EventStore, NewEvent
from evlog.adapters.predicates import Bounds, bounds_of
from evlog.adapters.rewriting import rewritten
from evlog.adapters.sql import Database, InvalidQuery
from evlog.errors import CorruptionError
from evlog.model.filters import EventFilter, LogSelection
from evlog.transfer import arrow
from tests.support.helpers import small_store
from tests.support.memory_engine import MemoryEngine, open_engine

NUMBERS = itertools.count()
NAMES = ["order-1", "order-2", "order", "größe-1", 'it\'s "q"', "back\\slash", "a, b"]
TYPES = ["Paid", "Placed", 'odd "type"', "back\\slash\\"]


def fill(store: EventStore) -> EventStore:
    for number in range(40):
        store.append(
            NAMES[number % 7],
            [NewEvent(TYPES[number % 4], {"amount": number, "who": "ann"}, tags=[f"n:{number % 3}"])],
        )
    store.append("order-1", [NewEvent("Text", 'line\n"q"', content_type="text", metadata={"k": 1})])
    store.append("order-1", [NewEvent("Bin", b"\x00\xff", content_type="binary")])
    if store.capabilities.retention:
        store.set_retention("order-2", max_count=1)  # hides; and writes an event of the store's own
    return store


def memory_store() -> EventStore:
    return EventStore(open_engine(f"memory://sql{next(NUMBERS)}", create=True))


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    made = small_store(tmp_path / "store") if request.param == "directory" else memory_store()
    with made as store:
        yield fill(store)


def rows(store: EventStore, sql: str) -> list[dict[str, Any]]:
    with Database(store) as database:
        result = database.query(sql)
        return [row for batch in result.batches for row in batch.to_pylist()]


def values(store: EventStore, sql: str) -> list[Any]:
    return [next(iter(row.values())) for row in rows(store, sql)]


def test_events_are_what_read_all_returns(store: EventStore) -> None:
    found = rows(store, "select * from events order by position")
    expected = list(store.read_all())
    assert [row["position"] for row in found] == [event.position for event in expected]
    for row, event in zip(found, expected, strict=True):
        assert (row["stream"], row["version"], row["type"]) == (event.stream, event.version, event.type)
        assert (row["id"], row["time"]) == (str(event.id), event.time)
        assert (row["category"], row["content_type"]) == (event.category, event.content_type)
        assert tuple(row["tags"]) == event.tags
    assert [row["data"] for row in found[:1]] == [expected[0].data.decode()]
    assert found[-2]["data"] == '"line\\n\\"q\\""'
    assert found[-2]["metadata"] == '{"k":1}'
    assert (found[-1]["data"], found[-1]["raw"]) == (None, b"\x00\xff")
    assert found[0]["raw"] is None


def test_data_is_json(store: EventStore) -> None:
    assert rows(
        store, "select data->>'who' who, sum((data->'amount')::int)::int n from events group by 1"
    ) == [
        {"who": "ann", "n": sum(range(40))},
        {"who": None, "n": None},
    ]
    assert values(store, "select data->>'$' from events where type = 'Text'") == ['line\n"q"']


def test_streams_are_what_streams_returns(store: EventStore) -> None:
    found = rows(store, "select * from streams order by stream")
    assert [
        (row["stream"], row["events"], row["first_version"], row["last_version"], row["last_time"])
        for row in found
    ] == sorted(
        (each.stream, each.events, each.first_version, each.last_version, each.last_time)
        for each in store.streams()
    )
    assert values(store, "select stream from streams where category = 'order' order by 1") == [
        "order",
        "order-1",
        "order-2",
    ]


def test_a_type_is_a_view(store: EventStore) -> None:
    assert values(store, "select count(*) from Paid") == [10]
    assert values(store, 'select count(*) from "odd ""type""" where position > 20') == [5]
    joined = "select count(*) from Paid join Placed on Placed.position = Paid.position + 1"
    assert values(store, joined) == [10]
    named = (
        "with größe as (select 1 as n) select count(*) from Paid a join Placed b using (content_type), größe"
    )
    assert values(store, named) == [100]
    assert values(store, 'select /* größe */ count(*) from "back\\slash\\"') == [10]
    with pytest.raises(InvalidQuery, match="Nothing"):
        rows(store, "select * from Nothing")


def test_several_statements_give_the_last_result(store: EventStore) -> None:
    assert values(store, "create table t as select 3 as n; select n from t;") == [3]
    with pytest.raises(InvalidQuery, match="no query"):
        rows(store, " ; ")


# --- what a query reads


class Spy:
    """What a store's engine is asked to read."""

    def __init__(self, store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, int | None, EventFilter]] = []
        read_all = store.engine.read_all

        def spied(selection: LogSelection) -> Any:
            if selection.limit is None:  # else whether there is such a type
                self.asked.append((selection.after, selection.to, selection.filter))
            return read_all(selection)

        monkeypatch.setattr(store.engine, "read_all", spied)


HEAD = -1  # stands for the end of the log


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("position > 5 and position <= 9", [(5, 9, EventFilter())]),
        ("position = 7", [(6, 7, EventFilter())]),
        ("position > 1000", []),
        ("stream = 'order-1'", [(0, HEAD, EventFilter("order-1"))]),
        ("stream = '$$order-2'", []),
        ("category = 'order' and type = 'Paid'", [(0, HEAD, EventFilter(None, "order", ["Paid"]))]),
        ("type in ('Paid', 'Placed')", [(0, HEAD, EventFilter(types=["Paid", "Placed"]))]),
        ("type = 'Paid' or type = 'Placed'", [(0, HEAD, EventFilter(types=["Paid", "Placed"]))]),
        (
            "stream in ('order-1', 'order-2')",
            [(0, HEAD, EventFilter("order-1")), (0, HEAD, EventFilter("order-2"))],
        ),
        ("stream = 'it''s'", [(0, HEAD, EventFilter("it's"))]),
        ("stream = 'back\\slash'", [(0, HEAD, EventFilter())]),
        ("stream = 'it''s \"q\"'", [(0, HEAD, EventFilter())]),
        (
            "time >= '2020-01-01T00:00:00Z' and time < '2020-01-02T00:00:00Z'",
            [(0, HEAD, EventFilter(since_us=1_577_836_800_000_000, until_us=1_577_923_200_000_000))],
        ),
        ("type = 'Paid' and (data->>'amount')::int > 3", [(0, HEAD, EventFilter(types=["Paid"]))]),
        ("type = 'Paid' or position = 3", [(0, HEAD, EventFilter())]),
        ("type <> 'Paid'", [(0, HEAD, EventFilter())]),
    ],
)
def test_conditions_choose_what_is_read(
    store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
    condition: str,
    expected: list[tuple[int, int, EventFilter]],
) -> None:
    spy = Spy(store, monkeypatch)
    rows(store, f"select position from events where {condition}")
    asked = [(after, HEAD if to == store.head else to, filter) for after, to, filter in spy.asked]
    assert asked == expected


def test_only_named_columns_are_made(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from evlog.adapters import sql

    def refuse(_: Any) -> Any:
        raise AssertionError("made")

    refused = {
        name: (field, refuse) for name, (field, _) in sql._EVENTS.items() if name not in {"type", "data"}
    }
    monkeypatch.setattr(sql, "_EVENTS", sql._EVENTS | refused)
    assert values(store, "select data->>'amount' from events where type = 'Paid' limit 1") == ["0"]


NAME = st.sampled_from([*NAMES, *TYPES, "order", "nothing", '" or (type == "Paid', '",\n  "Paid'])
TEXT = NAME.map(lambda name: "'" + name.replace("'", "''") + "'")
COMPARISON = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
LEAF = st.one_of(
    st.builds("{} {} {}".format, st.sampled_from(["stream", "category", "type"]), COMPARISON, TEXT),
    st.builds("position {} {}".format, COMPARISON, st.integers(-2, 50)),
    st.builds("time {} timestamptz '2026-01-01' + interval {} second".format, COMPARISON, st.integers(0, 9)),
    st.builds(
        "{} in ({})".format,
        st.sampled_from(["stream", "category", "type"]),
        st.lists(TEXT, min_size=1, max_size=30).map(", ".join),
    ),
    st.builds("position in ({})".format, st.lists(st.integers(1, 50).map(str), min_size=1).map(", ".join)),
    st.sampled_from(["stream like 'order-%'", "tags[1] = 'n:1'", "data->>'amount' = '3'", "stream is null"]),
)
CONDITION = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def timed() -> EventStore:
    """A store with five events a second."""
    store = fill(memory_store())
    assert isinstance(store.engine, MemoryEngine)
    events = store.engine._database.events
    first_us = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    events[:] = [Event((*event[:5], first_us + event[0] // 5 * 1_000_000, *event[6:])) for event in events]
    return store


@given(condition=CONDITION)
@settings(max_examples=60, deadline=None)
def test_a_query_gives_what_it_gives_on_a_table(timed: EventStore, condition: str) -> None:
    with Database(timed) as database:
        database.connection.execute("create table copy as select * from events")
        found = [
            database.connection.sql(f"select position from {name} where {condition} order by 1").fetchall()
            for name in ("events", "copy")
        ]
    assert found[0] == found[1], condition


def test_a_condition_that_is_not_understood_makes_no_bound() -> None:
    assert bounds_of("((position > 3) and (position + 1 < 9))") == (Bounds(first=4), False)
    assert bounds_of("((position > 3) and (position < 9))") == (Bounds(first=4, last=8), True)
    assert bounds_of("(stream > 3)") == (Bounds(), False)
    assert bounds_of("(position == 99999999999999999999999999)")[0].first == 99999999999999999999999999
    assert bounds_of('((type == "a") or (stream == "b"))') == (Bounds(), False)
    assert bounds_of('invert((type == "a"))') == (Bounds(), False)
    assert bounds_of("(time > 10000-01-01 00:00:00.000000Z)") == (Bounds(), False)
    many = ds.field("type").isin([f"T{number}" for number in range(40)])
    assert bounds_of(str(many)) == (Bounds(), False)  # its text leaves some out


def test_types_that_differ_only_in_case_are_not_mixed_up(tmp_path: Path) -> None:
    with small_store(tmp_path / "store") as store:
        store.append("s", [NewEvent("Order"), NewEvent("order"), NewEvent("order")])
        assert [values(store, f'select count(*) from "{name}"') for name in ("Order", "order")] == [[1], [2]]
        assert values(store, "select count(*) from \"order\" where type = 'Order' or true") == [2]
        with pytest.raises(InvalidQuery, match="would be one table"):
            rows(store, 'select * from "Order", "order"')


# --- queries that are rewritten

NEWEST = "select stream, position from {} order by position desc limit 3"
REWRITTEN = [
    NEWEST.format("events"),
    NEWEST.format("Happened"),
    NEWEST.format('"odd type"'),
    NEWEST.format("events where stream in ('order-1', 'user-2', 'order-3')"),
    NEWEST.format("events where type = 'Happened' and data->>'who' > 'b'"),
    "select e.position as position, data from events e order by E.Position desc limit 2 offset 3",
    "select * from Happened as h where h.stream like 'order-1%' order by h.position limit 4",
    "select position from events order by position asc nulls first limit 2 offset 1",
    "select sum(position) from (select position from events order by position desc limit 4)",
    "with last as (select * from events order by position desc limit 4) select max(version) from last",
    "select count(*) from events where stream like 'order-%'",
    "select count(*), min(position) from Happened where stream like 'order-1%' and position > 5",
    "select count(*) from streams where stream like 'user-%'",
    "select stream from events where stream like 'nosuch-%' order by position desc limit 1",
]
LEFT = [
    "select -position as position from events order by position limit 1",
    "select * replace (-position as position) from events order by position limit 1",
    "with events as (select 7 as position) select position from events order by position desc limit 1",
    "select count(*) from events where stream like 'order-1_' or stream like 'user-2%'",
    "select * exclude (metadata) from events order by position desc limit 2",
    "select row_number() over () as n, position from events order by position desc limit 2",
    "select type, count(*) as n from events group by type order by n desc, type limit 1",
    "select distinct type from events order by type limit 2",
    "select position from events order by position desc, type limit 2",
    "select a.position from events a, streams b where b.stream like 'order-%' order by 1 desc limit 1",
    "select count(*) from events where stream like 'order%'",
    "select count(*) from events where stream like '-%'",
    "select count(*) from events where not (stream like 'order-1%')",
    "select count(*) from events where stream like 'order-1%' or position = 1",
    "select max(position) from events tablesample 100 percent where position > 1",
]


@pytest.fixture(scope="module")
def various() -> EventStore:
    """A store of several categories, types and batches."""
    store = memory_store()
    for number in range(60):
        stream = f"{('order', 'user', 'user', '')[number % 4]}-{number % 13}"
        store.append(stream, [NewEvent(("Happened", "odd type")[number % 2], {"who": "abc"[number % 3]})])
    return store


@pytest.mark.parametrize("sql", REWRITTEN + LEFT)
def test_a_query_that_is_rewritten_gives_the_same(
    various: EventStore, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    new: list[str | None] = []

    def noting(*arguments: Any) -> str | None:
        new.append(rewritten(*arguments))
        return new[0]

    def answer() -> tuple[list[str], list[dict[str, Any]]]:
        with Database(various) as database:
            result = database.query(sql)
            return result.names, [row for batch in result.batches for row in batch.to_pylist()]

    monkeypatch.setattr("evlog.adapters.sql.rewritten", noting)
    found = answer()
    monkeypatch.setattr("evlog.adapters.sql.rewritten", lambda *_: None)
    assert found == answer()
    assert (new[0] is None) == (sql in LEFT), new


@pytest.mark.parametrize("order", ["desc", ""])
def test_the_first_rows_are_read_without_the_rest(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    for _ in range(30):
        store.append("many-1", [NewEvent("Many") for _ in range(1000)])
    read = 0

    class Counted(arrow.Picked):
        def __init__(self, records: Any) -> None:
            nonlocal read
            read += len(records)
            super().__init__(records)

    monkeypatch.setattr(arrow, "Picked", Counted)
    assert len(rows(store, f"select position from Many order by position {order} limit 5")) == 5
    assert 0 < read <= 15_000


# --- what it cannot do


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('/etc/hosts')",
        "select * from '/etc/hosts'",
        "copy (select 1) to '{}/out'",
        "attach '{}/out.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "insert into events values (1)",
        "select * from store",  # a variable of Python's
    ],
)
def test_a_query_reaches_nothing_outside(tmp_path: Path, sql: str) -> None:
    with small_store(tmp_path / "store") as store, pytest.raises(InvalidQuery):
        rows(store, sql.format(tmp_path))
    assert os.listdir(tmp_path) == ["store"]


def test_damage_is_reported_as_such(tmp_path: Path) -> None:
    with fill(small_store(tmp_path / "store")) as store:
        path = sorted((tmp_path / "store" / "segments").glob("*.log"))[1]
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    with small_store(tmp_path / "store") as store, pytest.raises(CorruptionError):
        rows(store, "select sum(position) from events")


def test_a_failure_at_a_value_is_a_failed_query(store: EventStore) -> None:
    with pytest.raises(InvalidQuery, match="Could not convert") as caught:
        rows(store, "select (data->>'who')::int from events")
    assert isinstance(caught.value, InvalidQuery)
    assert not isinstance(caught.value, duckdb.Error)


def test_a_view_that_a_query_has_replaced_is_not_read_as_the_store(store: EventStore) -> None:
    last = "select position from Paid order by position desc limit 1"
    replaced = "create or replace view Paid as select 1000 + position as position from events; "
    assert values(store, replaced + last) == values(store, "select 1000 + max(position) from events")


def test_a_category_is_what_is_before_the_first_dash(store: EventStore) -> None:
    store.append("-1", [NewEvent("Odd")])
    streams = "select stream from {} where category {}"
    for view in ("events", "streams"):
        assert values(store, streams.format(view, "= ''")) == ["-1"]
        assert values(store, streams.format(view, "in ('order-1', '$schemas', '-')")) == []


def test_a_scan_ends_where_the_database_was_made(store: EventStore) -> None:
    with Database(store) as database:
        store.append("order-1", [NewEvent("Late")])
        counted = database.query("select count(*) from events")
        assert [batch.to_pylist() for batch in counted.batches] == [[{"count_star()": 42}]]
