"""A server of the Model Context Protocol over one store, by the official SDK.

1. Every tool reads, unless appending was allowed. Each call works on the store as it is at that moment.
2. An answer is bounded: it ends before `MAX_BYTES`, and says from where to continue.
3. What evlog refuses is an error of the tool, with evlog's own text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from itertools import islice
from typing import Annotated, Any, Final, ParamSpec

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from evlog._version import __version__
from evlog.errors import EvlogError, InvalidArgument
from evlog.model.appends import ANY
from evlog.model.events import Event, NewEvent
from evlog.model.json_lines import encode_lines
from evlog.model.matching import pattern_of_text
from evlog.store import EventStore

MAX_BYTES: Final = 64 * 1024
_MOST: Final = 1000  # events or streams in one answer
_RECENT_EVENTS: Final = 10_000
_READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_APPENDS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
_INSTRUCTIONS: Final = """An event store: immutable events, in order. Each event has a position in the whole
store and a version in its stream; a stream, such as order-42, is one thing's history, and its category is the
part before the first "-". Answers are bounded; "next" is what to pass to continue. Times are UTC."""

_P = ParamSpec("_P")
Stream = Annotated[str | None, Field(description="Only this stream, such as order-42.")]
Category = Annotated[str | None, Field(description="Only streams of this category, such as order.")]
Types = Annotated[list[str] | None, Field(description="Only events of these types.")]
Tags = Annotated[list[str] | None, Field(description="Only events that have all these tags.")]
Limit = Annotated[int, Field(ge=1, le=_MOST)]


def make_server(store: EventStore, *, allow_append: bool = False) -> MCPServer:
    """Return a server whose tools work on the store; `run()` serves stdin and stdout until stdin ends.

    Args:
        store: open as long as the server runs.
        allow_append: also offer a tool that appends.
    """
    # By default the SDK also logs each refused call, which the client is told of.
    server = MCPServer("evlog", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    tools = _Tools(store)
    for tool in (
        tools.list_streams,
        tools.list_types,
        tools.read_events,
        tools.show_event,
        tools.fold_state,
        tools.list_subscriptions,
        tools.store_info,
        tools.verify_store,
    ):
        server.tool(annotations=_READS)(_refusing(tool))
    if allow_append:
        server.tool(annotations=_APPENDS)(_refusing(tools.append_event))
    return server


def _refusing(tool: Callable[_P, dict[str, Any]]) -> Callable[_P, dict[str, Any]]:
    """Return the tool, with evlog's errors as the tool's."""

    @wraps(tool)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> dict[str, Any]:
        try:
            return tool(*args, **kwargs)
        except EvlogError as error:
            raise ToolError(str(error)) from error

    return call


class _Tools:
    """The tools, each a method: its docstring is what a client's model reads."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def list_streams(
        self,
        category: Category = None,
        after: Annotated[str, Field(description="Begin after this name.")] = "",
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """List streams by name: how many events each has, its versions, and when it was written last."""
        found = (info for info in self._store.streams(category=category) if info.stream > after)
        rows = (
            {
                "stream": i.stream,
                "events": i.events,
                "last_version": i.last_version,
                "last_time": _text_of(i.last_time),
            }
            for i in found
        )
        return _bounded("streams", rows, limit, lambda row: row["stream"])

    def list_types(self) -> dict[str, Any]:
        """Count the types of the store's last 10,000 events."""
        events = self._store.read_all(reverse=True, limit=_RECENT_EVENTS)
        return {"types": dict(Counter(event.type for event in events).most_common(_MOST))}

    def read_events(
        self,
        stream: Stream = None,
        category: Category = None,
        types: Types = None,
        tags: Tags = None,
        contains: Annotated[
            str | None, Field(min_length=1, description="A text in the data or metadata, as it is stored.")
        ] = None,
        since: Annotated[datetime | None, Field(description="Written then or later.")] = None,
        until: Annotated[datetime | None, Field(description="Written before then.")] = None,
        after: Annotated[int, Field(ge=0, description="Behind this position, or version of the stream.")] = 0,
        newest_first: bool = False,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """Read events in the order in which they were written: of one stream, or of the whole store."""
        if stream is not None and category is not None:
            raise InvalidArgument("stream and category exclude each other; give one of them")
        grep = None if contains is None else pattern_of_text(contains)  # no pattern that never ends
        selection: dict[str, Any] = {
            "types": types, "tags": tags, "grep": grep, "since": since, "until": until,
        }  # fmt: skip
        if stream is None:
            events = self._store.read_all(after, category=category, reverse=newest_first, **selection)
        else:
            events = self._store.read(stream, after + 1, reverse=newest_first, **selection)
        number = "position" if stream is None else "version"
        answer = _bounded("events", _objects(events), limit, lambda event: event[number])
        if newest_first:
            answer.pop("next", None)  # backwards, it would be an upper bound
        return answer

    def show_event(
        self, event: Annotated[str, Field(description="Its id, or its position.")]
    ) -> dict[str, Any]:
        """Show one event with all of its data."""
        name: str | int = int(event) if event.isascii() and event.isdigit() else event
        (found,) = _objects([self._store.get(name)])
        return found

    def fold_state(
        self,
        stream: Stream = None,
        category: Category = None,
        types: Types = None,
        tags: Tags = None,
        at: Annotated[
            int | None, Field(ge=0, description="As of this position, or version of the stream.")
        ] = None,
    ) -> dict[str, Any]:
        """Merge the data of the selected events into one state, in order (JSON Merge Patch, RFC 7396)."""
        result = self._store.state(stream, at=at, category=category, types=types, tags=tags)
        found = {"state": result.value, "events": result.events, "position": result.position}
        if len(json.dumps(found, default=str)) > MAX_BYTES:
            raise InvalidArgument(f"the state is larger than {MAX_BYTES} bytes; select fewer events")
        return found

    def list_subscriptions(self) -> dict[str, Any]:
        """List named subscriptions: how far each is, what it has not scanned, and what it gave up."""
        rows = (
            {
                "name": each.name,
                "position": each.position,
                "lag_events": each.lag_events,
                "parked": each.parked,
                "running": each.running,
            }
            for each in self._store.subscriptions()
        )
        return _bounded("subscriptions", rows, _MOST, lambda row: row["name"])

    def store_info(self) -> dict[str, Any]:
        """Show the store in numbers."""
        info = self._store.info()
        return {
            "store": self._store.path,
            "engine": self._store.capabilities.engine,
            "events": info.events,
            "streams": info.streams,
            "bytes": info.bytes,
            "last_position": info.last_position,
            "first_time": _text_of(info.first_time),
            "last_time": _text_of(info.last_time),
        }

    def verify_store(self) -> dict[str, Any]:
        """Check the store quickly: lengths, headers and the end of the log. Changes nothing."""
        report = self._store.verify(quick=True)
        return {"ok": report.ok, "findings": [found._asdict() for found in report.findings[:_MOST]]}

    def append_event(
        self,
        stream: Annotated[str, Field(description="Such as order-42.")],
        type: Annotated[str, Field(description="What happened, such as OrderPaid.")],
        data: Annotated[Any, Field(description="Any JSON.")],
        expected_version: Annotated[
            int | None,
            Field(ge=0, description="Refuse if the stream is not at this version; 0: there must be none."),
        ],
        idempotency_key: Annotated[
            str | None, Field(description="The same key is stored once, however often it is sent.")
        ] = None,
        tags: Annotated[list[str] | None, Field(description="Such as course:c1.")] = None,
    ) -> dict[str, Any]:
        """Append one event. It can never be changed or taken back. Pass the version that you decided on."""
        event = NewEvent(type, data, idempotency_key=idempotency_key, tags=tags or ())
        expected: Any = ANY if expected_version is None else expected_version
        result = self._store.append(stream, [event], expected)
        return {
            "position": result.last_position,
            "version": result.last_version,
            "duplicate": result.duplicate,
        }


def _text_of(moment: datetime | None) -> str | None:
    """Return a time as events have it; None for that of an empty store."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"


def _objects(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    for event in events:
        found: dict[str, Any] = json.loads(b"".join(encode_lines([event])))
        yield found


def _bounded(
    name: str, rows: Iterable[dict[str, Any]], limit: int, key: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Return the first rows, and after which one to continue if there are more."""
    taken: list[dict[str, Any]] = []
    size = 0
    iterator = iter(rows)
    for row in islice(iterator, limit):
        size += len(json.dumps(row))
        if taken and size > MAX_BYTES:
            return {name: taken, "next": key(taken[-1])}
        if size > MAX_BYTES:
            raise InvalidArgument(f"{name} at {key(row)!r} alone is larger than {MAX_BYTES} bytes")
        taken.append(row)
    more = next(iterator, None) is not None
    return {name: taken, "next": key(taken[-1])} if more else {name: taken}
