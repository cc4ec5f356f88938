"""Pages of events: all that match, each once, however small the pieces are in which they are searched."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import QueryParams

import evlog
from evlog import EventStore, InvalidArgument, NewEvent
from evlog.web import live, reading
from evlog.web.app import make_app
from evlog.web.reading import read_page
from evlog.web.shown import SHOWN_BYTES, as_event, as_row
from evlog.web.streams import StreamNames, recent_names
from tests.support.helpers import flip_bit
from tests.web.conftest import LONG_SECONDS, fill

NUMBERS = itertools.count()
POINT = EntryPoint("memory", "tests.support.memory_engine:open_engine", "evlog.engines")

FILTERS: list[dict[str, Any]] = [
    {},
    {"stream": "cart-04"},
    {"stream": "cart-04", "type": "Changed"},
    {"category": "order"},
    {"category": "order", "type": "Paid"},
    {"type": "Placed"},
    {"tag": "customer:1"},
    {"text": '"at":9'},
    {"text": '"at":8', "category": "cart"},
    {"text": "occurs nowhere"},
    {"since": "2020-01-01", "until": "now"},
    {"until": "2020-01-01"},
]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search ends because the machine is busy."""
    monkeypatch.setattr(reading, "SEARCH_SECONDS", float(LONG_SECONDS))


@contextmanager
def filled(engine: str, path: Path) -> Iterator[EventStore]:
    where = str(path / "store") if engine == "directory" else f"memory://web-{next(NUMBERS)}"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([POINT]))
        with evlog.open(where, create=True) as store:
            fill(store)
            yield store


@pytest.fixture(params=["directory", "memory"])
def each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    with filled(request.param, tmp_path) as store:
        yield store


@pytest.fixture(params=["directory", "memory"], scope="module")
def unchanged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EventStore]:
    """A store that no test changes."""
    with filled(request.param, tmp_path_factory.mktemp("unchanged")) as store:
        yield store


def query(**parameters: Any) -> QueryParams:
    return QueryParams({name: str(value) for name, value in parameters.items()})


def expected(store: EventStore, filter: dict[str, Any]) -> list[int]:
    options = reading.selection_of(query(**filter)).options
    stream = filter.get("stream")
    events = store.read_all(**options) if stream is None else store.read(stream, **options)
    return [event.position for event in events]


@pytest.mark.parametrize("pieces", ["one", "many"])
@pytest.mark.parametrize("filter", FILTERS, ids=str)
@pytest.mark.parametrize("order", ["older", "newer"])
def test_pages_hold_every_event_once(
    unchanged: EventStore, order: str, filter: dict[str, Any], pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces == "many":  # each answer has searched one piece, or up to the first event that it found
        monkeypatch.setattr(reading, "_FIRST_PIECE", 7)
        monkeypatch.setattr(reading, "SEARCH_SECONDS", 0.0)
    bound = {} if order == "older" else {"after": 0}
    found: list[int] = []
    answers = 0
    while True:
        page = read_page(unchanged, query(**filter, **bound, order=order, limit=4))
        assert len(page.events) <= (4 if pieces == "one" else 1)
        found += [row["position"] for row in page.events][:: 1 if order == "older" else -1]
        answers += 1
        assert answers < 500
        if not page.more:
            break
        bound = {"before" if order == "older" else "after": page.bound}
    assert found == expected(unchanged, filter)[:: -1 if order == "older" else 1]
    if pieces == "one":
        assert answers <= len(found) // 4 + 1


def test_new_events_are_those_behind_the_top(each_store: EventStore) -> None:
    first = read_page(each_store, query(type="Paid", limit=100))
    each_store.append("order-01", [NewEvent("Paid", 1), NewEvent("Other"), NewEvent("Paid", 2)])
    page = read_page(each_store, query(type="Paid", after=first.top, limit=100))
    assert [row["data"] for row in page.events] == ["2", "1"]
    assert not page.more
    assert not read_page(each_store, query(type="Paid", after=page.top, limit=100)).events


def test_a_page_ends_at_damage_and_says_so(tmp_path: Path) -> None:
    with evlog.open(tmp_path / "store", create=True) as store:
        fill(store)
        (log,) = (tmp_path / "store" / "segments").glob("*.log")
        flip_bit(log, b'"number":15')
    with evlog.open(tmp_path / "store") as store:
        page = read_page(store, query(limit=200))
    assert page.problem is not None
    assert "damage" in page.problem or "CRC" in page.problem
    assert not page.more
    assert [row["position"] for row in page.events] == list(range(300, 300 - len(page.events), -1))


@pytest.mark.parametrize("text", ['"(x+x+)+y', "/(x+x+)+y/", "a.c[", "1.5$", "\\d"])
def test_a_text_is_searched_as_it_is_and_never_as_a_pattern(tmp_path: Path, text: str) -> None:
    with evlog.open(tmp_path / "store", create=True) as store:
        store.append(
            "s", [NewEvent("T", data, content_type="text") for data in (f"in {text} it", "x" * 5000, "abc")]
        )
        page = read_page(store, QueryParams(text=text))
        assert [row["position"] for row in page.events] == [1]


def test_data_is_cut_in_a_list_and_when_it_is_large(tmp_path: Path) -> None:
    with evlog.open(tmp_path / "store", create=True) as store:
        raw = os.urandom(3000)
        long = "ü" * SHOWN_BYTES
        store.append("s", [NewEvent("T", long), NewEvent("B", raw, content_type="binary"), NewEvent("T", {})])
        text, binary, _ = store.read("s")
        assert len(as_row(text)["data"]) <= 1000
        assert as_row(binary)["data"] == "3,000 bytes"
        shown = as_event(store, text)
        assert (shown["bytes"], shown["shown_bytes"]) == (2 * len(long) + 2, SHOWN_BYTES)
        assert len(shown["data"].encode()) <= SHOWN_BYTES + 3
        shown = as_event(store, binary)
        assert shown["data"].startswith(f"00000000  {raw[:16].hex(' ')}")
        assert (shown["previous"], shown["next"]) == (1, 3)


def test_streams_come_in_pages_by_name(each_store: EventStore) -> None:
    names = sorted(info.stream for info in each_store.streams())
    streams = StreamNames(each_store)
    found: list[str] = []
    after = None
    while page := streams.page("", after, None, 7)["streams"]:
        found += [row["stream"] for row in page]
        after = found[-1]
    assert found == names
    page = streams.page("", None, names[20], 7)
    assert [row["stream"] for row in page["streams"]] == names[13:20]
    assert (page["first"], page["last"], page["count"]) == (14, 20, 30)
    page = streams.page("order-1", None, None, 100)
    assert [row["stream"] for row in page["streams"]] == [f"order-{n}" for n in (11, 13, 15, 17, 19)]
    assert page["categories"] == [("cart", 15), ("order", 15)]
    each_store.append("order-14", [NewEvent("New")])
    each_store.append("cart-04", [NewEvent("Old")])
    page = streams.page("order-1", None, None, 100)
    assert page["count"] == 6
    assert page["streams"][2] | {"time_us": 0} == {
        "stream": "order-14", "version": 1, "type": "New", "time_us": 0, "position": 301,
    }  # fmt: skip


def test_a_deleted_stream_is_not_listed(tmp_path: Path) -> None:
    with filled("directory", tmp_path) as store:
        streams = StreamNames(store)
        assert streams.page("cart-0", None, None, 100)["count"] == 5
        store.delete_stream("cart-04")
        page = streams.page("cart-0", None, None, 100)
        assert [row["stream"] for row in page["streams"]] == ["cart-00", "cart-02", "cart-06", "cart-08"]
        assert page["categories"] == [("order", 15), ("cart", 14)]
        store.append("cart-04", [NewEvent("Again")])
        assert streams.page("cart-0", None, None, 100)["count"] == 5


def test_spaces_are_part_of_a_name_and_of_a_text(each_store: EventStore) -> None:
    each_store.append(" s ", [NewEvent(" T ", "a b", tags=[" t "], content_type="text")])
    for filter in ({"stream": " s "}, {"type": " T "}, {"tag": " t "}, {"text": " "}):
        assert [row["stream"] for row in read_page(each_store, query(**filter)).events] == [" s "], filter
    assert not read_page(each_store, query(text="a ", type="Paid")).events


def test_names_for_the_filters_are_those_of_the_last_events(each_store: EventStore) -> None:
    names = recent_names(each_store, 10)
    assert names["stream"] == ["order-29"]
    assert names["type"][0] == "Changed"
    assert names["tag"] == ["customer:2"]


# --- answers that are sent piece by piece


def connect(app: Any, path: str, receive: Any, send: Any) -> Any:
    path, _, query_string = path.partition("?")
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "headers": [],
        "query_string": query_string.encode(), "root_path": "", "scheme": "http",
    }  # fmt: skip
    return app(scope, receive, send)


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == live.FOLLOWER]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_SECONDS):
        while not condition():  # noqa: ASYNC110 - a thread's end sets no event
            await asyncio.sleep(0.005)


def test_pages_share_one_follower_which_ends_with_the_last_of_them(each_store: EventStore) -> None:
    async def run() -> None:
        app = make_app(each_store)
        received: list[bytes] = []
        left = [asyncio.Event(), asyncio.Event()]

        async def send(message: Any) -> None:
            received.append(message.get("body", b""))

        def page(number: int) -> Any:
            async def receive() -> dict[str, str]:
                await left[number].wait()
                return {"type": "http.disconnect"}

            return asyncio.create_task(connect(app, "/live", receive, send))

        pages = [page(0), page(1)]
        await until(lambda: sum(b"data: 300\n" in each for each in received) == 2)
        assert len(followers()) == 1
        each_store.append("a", [NewEvent("T")])
        await until(lambda: sum(b"data: 301\n" in each for each in received) == 2)
        left[0].set()
        await pages[0]
        assert len(followers()) == 1
        left[1].set()
        await pages[1]
        await until(lambda: not followers())

    asyncio.run(run())


def test_a_page_that_takes_nothing_is_left(each_store: EventStore) -> None:
    async def run() -> None:
        async def receive() -> None:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message.get("body"):
                await asyncio.Event().wait()  # the socket's buffer stays full

        async with asyncio.timeout(LONG_SECONDS):
            await live.Messages(live.heads_of(live.Heads(each_store)), 0.01)({}, receive, send)  # type: ignore[arg-type]
        await until(lambda: not followers())

    asyncio.run(run())


def test_pages_are_told_when_the_store_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        received: list[bytes] = []

        async def receive() -> None:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            received.append(message.get("body", b""))

        with evlog.open(tmp_path / "store", create=True) as store:
            fill(store)
            page = asyncio.create_task(connect(make_app(store), "/live", receive, send))
            await until(lambda: any(b"data: 300\n" in each for each in received))
            os.rename(tmp_path / "store", tmp_path / "elsewhere")
            (tmp_path / "elsewhere" / "manifest.json").unlink()
            async with asyncio.timeout(LONG_SECONDS):
                await page
        problem = f"the store at {tmp_path / 'store'} was moved or removed while it was open"
        assert f"event: problem\ndata: {json.dumps(problem)}\n\n".encode() in received

    asyncio.run(run())


def story(store: EventStore, position: int, *, to_the_end: bool) -> list[str]:
    async def run() -> list[str]:
        from evlog.aio.workers import Workers

        workers = Workers(1, "reader")
        told = live.story_of(store, workers, position, to_the_end=to_the_end)
        return [each.decode() async for each in told]

    return asyncio.run(run())


def linked(store: EventStore) -> list[int]:
    """Append a story with other events between its own, and return the positions of its events."""
    noted = store.append("note-x", [NewEvent("Noted", correlation_id="x")]).last_position
    fill(store)
    store.append("order-x", [NewEvent("Placed", correlation_id="x")])
    first = store.last("order-x")
    assert first is not None
    fill(store)
    store.append("payment-x", [first.caused("Asked")])
    asked = store.last("payment-x")
    assert asked is not None
    fill(store)
    store.append("order-x", [asked.caused("Paid")])
    return [noted, first.position, asked.position, store.head]


@pytest.mark.parametrize("piece", [1, 50, 100_000])
def test_a_story_is_found_from_each_of_its_events(
    each_store: EventStore, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_FIRST_PIECE", piece)
    positions = linked(each_store)
    for position in positions:
        told = story(each_store, position, to_the_end=True)
        for each in positions:
            assert sum(f'"position": {each},' in message for message in told) == 1
        assert told[-1] == 'event: end\ndata: {"complete": true}\n\n'


def test_a_story_that_takes_long_stops_and_says_where(
    each_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_STORY_SECONDS", 0.0)
    positions = linked(each_store)
    told = story(each_store, positions[1], to_the_end=False)
    assert '"complete": false' in told[-1]
    assert sum(message.count('"position"') for message in told) == 1
    monkeypatch.setattr(live, "_STORY_EVENTS", 2)
    told = story(each_store, positions[1], to_the_end=True)
    assert '"complete": false' in told[-1]


def test_a_search_with_filters_that_make_no_sense_is_refused(each_store: EventStore) -> None:
    with pytest.raises(InvalidArgument, match="leave one of them empty"):
        read_page(each_store, query(stream="a", category="b"))
