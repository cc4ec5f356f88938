"""A server of the Model Context Protocol over one store, by the official SDK.

1. Every tool reads, unless appending was allowed. Each call works on the store as it is at that moment.
2. An answer is bounded: it ends before `MAX_BYTES`, and says from where to continue.
3. An answer is one compact JSON text, in which events are as they are stored. The SDK would indent it,
   send it twice, and change numbers that a float cannot hold.
4. What evlog refuses is an error of the tool, with evlog's own text. So is an argument that a tool does not
   have: a filter with a wrong name would select everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import wraps
from itertools import islice
from typing import Annotated, Any, Final, ParamSpec

from evlog._version import __version__
from evlog.errors import EvlogError, ExtraNotInstalled, InvalidArgument
from evlog.model.appends import ANY
from evlog.model.events import Event, NewEvent, now_moment
from evlog.model.json_lines import encode_lines
from evlog.model.json_text import encode_json
from evlog.model.matching import pattern_of_text
from evlog.model.when import parse_when
from evlog.state.fold import Merge
from evlog.store import EventStore

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.mcpserver.tools import Tool
    from mcp.types import ToolAnnotations
    from pydantic import Field
except ImportError as error:
    raise ExtraNotInstalled("evlog mcp", (error.name or "mcp").partition(".")[0], "mcp", error) from error

MAX_BYTES: Final = 64 * 1024
_MOST: Final = 1000  # events or streams in one answer
_MOST_FINDINGS: Final = 100
_MOST_TYPES: Final = 200
_RECENT_EVENTS: Final = 10_000
_READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_APPENDS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
_INSTRUCTIONS: Final = """An event store: immutable events, in order. Each event has a position in the whole
store and a version in its stream; a stream, such as order-42, is one thing's history, and its category is the
part before the first "-". Answers are bounded; "next" is what to pass as "after" to continue, or as "before"
where the newest come first. Times are UTC."""

_P = ParamSpec("_P")
Stream = Annotated[str | None, Field(description="Only this stream, such as order-42.")]
Category = Annotated[
    str | None, Field(min_length=1, description="Only streams of this category, such as order.")
]
Types = Annotated[list[str] | None, Field(description="Only events of these types.")]
Tags = Annotated[list[str] | None, Field(description="Only events that have all these tags.")]
Limit = Annotated[int, Field(ge=1, le=_MOST)]
AfterName = Annotated[str, Field(description="Begin after this name.")]


def make_server(store: EventStore, *, allow_append: bool = False) -> MCPServer:
    """Return a server whose tools work on the store; `run()` serves stdin and stdout until stdin ends.

    Args:
        store: open as long as the server runs.
        allow_append: also offer a tool that appends.
    """
    methods = _Tools(store)
    reading = (
        methods.list_streams,
        methods.list_types,
        methods.read_events,
        methods.show_event,
        methods.fold_state,
        methods.list_subscriptions,
        methods.store_info,
        methods.verify_store,
    )
    tools = [_tool_of(method, _READS) for method in reading]
    if allow_append:
        tools.append(_tool_of(methods.append_event, _APPENDS))
    # By default the SDK also logs each refused call, which the client is told of.
    return MCPServer(
        "evlog", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING", tools=tools
    )


def _tool_of(method: Callable[_P, str], annotations: ToolAnnotations) -> Tool:
    """Return the tool, with evlog's errors as the tool's, which refuses arguments that it does not have."""

    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> str:
        try:
            return method(*args, **kwargs)
        except EvlogError as error:
            raise ToolError(str(error)) from error

    tool = Tool.from_function(call, annotations=annotations, structured_output=False)
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


class _Tools:
    """The tools, each a method: its docstring is what a client's model reads."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def list_streams(
        self,
        category: Category = None,
        after: AfterName = "",
        limit: Limit = 100,
    ) -> str:
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
        return _bounded("streams", ((row["stream"], encode_json(row)) for row in rows), limit)

    def list_types(self) -> str:
        """Count the types of the store's last 10,000 events."""
        events = self._store.read_all(reverse=True, limit=_RECENT_EVENTS)
        return encode_json({"types": dict(Counter(event.type for event in events).most_common(_MOST_TYPES))})

    def read_events(
        self,
        stream: Stream = None,
        category: Category = None,
        types: Types = None,
        tags: Tags = None,
        contains: Annotated[
            str | None, Field(min_length=1, description="A text in the data or metadata, as it is stored.")
        ] = None,
        since: Annotated[
            str | None,
            Field(description="Written then or later: 2026-11-23T10:51:00Z, or an age such as 15m or 2h."),
        ] = None,
        until: Annotated[str | None, Field(description="Written before then.")] = None,
        after: Annotated[int, Field(ge=0, description="After this position, or version of the stream.")] = 0,
        before: Annotated[
            int | None, Field(ge=1, description="Before this position, or version of the stream.")
        ] = None,
        newest_first: bool = False,
        limit: Limit = 50,
    ) -> str:
        """Read events in the order in which they were written: of one stream, or of the whole store."""
        if stream is not None and category is not None:
            raise InvalidArgument("stream and category exclude each other; give one of them")
        grep = None if contains is None else pattern_of_text(contains)  # no pattern that never ends
        now = now_moment()
        selection: dict[str, Any] = {
            "types": types or None,
            "tags": tags,
            "grep": grep,
            "since": since and parse_when(since, now),
            "until": until and parse_when(until, now),
            "reverse": newest_first,
        }
        to = None if before is None else before - 1
        if stream is None:
            events = self._store.read_all(after, to, category=category, **selection)
            rows = ((event.position, _line_of(event)) for event in events)
        else:
            events = self._store.read(stream, after + 1, to, **selection)
            rows = ((event.version, _line_of(event)) for event in events)
        return _bounded("events", rows, limit, "before" if newest_first else "after")

    def show_event(self, event: Annotated[str | int, Field(description="Its id, or its position.")]) -> str:
        """Show one event with all of its data."""
        is_position = isinstance(event, str) and event.isascii() and event.isdecimal() and len(event) < 20
        found = self._store.get(int(event) if is_position else event)
        line = _line_of(found)
        if len(line.encode()) > MAX_BYTES:
            raise _too_large(f"event {found.position}", f"`evlog show {found.position}` prints it")
        return line

    def fold_state(
        self,
        stream: Stream = None,
        category: Category = None,
        types: Types = None,
        tags: Tags = None,
        at: Annotated[
            int | None, Field(ge=0, description="As of this position, or version of the stream.")
        ] = None,
    ) -> str:
        """Merge the data of the selected events into one state, in order (JSON Merge Patch, RFC 7396)."""
        result = self._store.state(
            stream, _ExactMerge(), at=at, category=category, types=types or None, tags=tags
        )
        found = f'{{"state":{result.value},"events":{result.events},"position":{result.position}}}'
        if len(found.encode()) > MAX_BYTES:
            raise _too_large("the state", "select fewer events")
        return found

    def list_subscriptions(self, after: AfterName = "") -> str:
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
            if each.name > after
        )
        return _bounded("subscriptions", ((row["name"], encode_json(row)) for row in rows), _MOST)

    def store_info(self) -> str:
        """Show the store in numbers."""
        info = self._store.info()
        return encode_json(
            {
                "store": self._store.path,
                "engine": self._store.capabilities.engine,
                "events": info.events,
                "streams": info.streams,
                "bytes": info.bytes,
                "last_position": info.last_position,
                "first_time": _text_of(info.first_time),
                "last_time": _text_of(info.last_time),
            }
        )

    def verify_store(self) -> str:
        """Check the store quickly: lengths, headers and the end of the log. Changes nothing."""
        report = self._store.verify(quick=True)
        findings = [found._asdict() for found in report.findings]
        return encode_json({"ok": report.ok, "count": len(findings), "findings": findings[:_MOST_FINDINGS]})

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
    ) -> str:
        """Append one event. It can never be changed or taken back. Pass the version that you decided on."""
        event = NewEvent(type, data, idempotency_key=idempotency_key, tags=tags or ())
        expected: Any = ANY if expected_version is None else expected_version
        result = self._store.append(stream, [event], expected)
        return encode_json(
            {
                "position": result.last_position,
                "version": result.last_version,
                "duplicate": result.duplicate,
            }
        )


class _ExactMerge(Merge):
    """The default fold, whose value is JSON with its numbers as they are stored."""

    def value(self, state: Any) -> str:
        """Return the state as JSON."""
        return self.encode(state).decode()


def _text_of(moment: datetime | None) -> str | None:
    """Return a time as events have it; None for that of an empty store."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"


def _line_of(event: Event) -> str:
    """Return the event as JSON, as `evlog read` prints it."""
    return b"".join(encode_lines([event])).decode().rstrip("\n")


def _too_large(what: str, advice: str) -> InvalidArgument:
    return InvalidArgument(f"{what} is larger than {MAX_BYTES} bytes", advice)


def _bounded(name: str, rows: Iterable[tuple[Any, str]], limit: int, bound: str = "after") -> str:
    """Return the first rows, and after which one to continue if there are more.

    Args:
        rows: the key of each, and its JSON.
        bound: the argument that takes a key.
    """
    taken: list[str] = []
    last, size = None, 0
    iterator = iter(rows)
    for key, row in islice(iterator, limit):
        size += len(row.encode()) + 1
        if size > MAX_BYTES and not taken:
            raise _too_large(f"the next of the {name}", f"pass {key} as {bound} to continue with the others")
        if size > MAX_BYTES:
            break
        taken.append(row)
        last = key
    else:
        if next(iterator, None) is None:
            return f'{{"{name}":[{",".join(taken)}]}}'
    return f'{{"{name}":[{",".join(taken)}],"next":{encode_json(last)}}}'
