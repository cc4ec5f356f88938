"""A store and a plain list side by side: whatever is done to the one is done to the other.

Three handles hold one directory. Between any two appends files are damaged that can be made anew, the end of
the log is torn, handles are reopened. After every step each handle has to say what the list says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import EvlogError, IdConflict, InvalidEvent, WrongExpectedVersion
from evlog.events import category_of, encode_events
from evlog.format import FRAME_MAGIC
from tests.helpers import small_store

PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
HANDLES = 3

streams = st.sampled_from(["a", "a-1", "a-2", "b-1", "c"])
types = st.sampled_from(["T", "U", "V"])
handles = st.integers(0, HANDLES - 1)
expectations = st.sampled_from(["any", "any", "right", "right", "exists", "none", "less", "more"])
batches = st.lists(
    st.tuples(streams, st.lists(types, min_size=1, max_size=3), expectations), min_size=1, max_size=3
)


class Row(NamedTuple):
    """What the list knows of an event."""

    position: int
    stream: str
    version: int
    type: str
    id: UUID
    data: bytes


class StoreMachine(RuleBasedStateMachine):
    """The rules. `rows` is the plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(dir=PLACE, prefix="evlog-machine-")
        self.path = f"{self.directory}/store"
        self.patches = pytest.MonkeyPatch()
        self.prepare()
        self.rows: list[Row] = []
        self.sent: list[list[tuple[str, NewEvent]]] = []
        self.made = 0
        self.handles: list[EventStore] = []

    def prepare(self) -> None:
        """Change what the store works with, by `self.patches`."""

    def teardown(self) -> None:
        for handle in self.handles:
            handle.close()
        self.patches.undo()
        shutil.rmtree(self.directory)

    @initialize(segment_events=st.sampled_from([1, 4, 7]), segment_bytes=st.sampled_from([600, 1 << 20]))
    def create(self, segment_events: int, segment_bytes: int) -> None:
        small_store(
            self.path, segment_events=segment_events, segment_bytes=segment_bytes, sync="none"
        ).close()
        self.handles = [self.opened(number) for number in range(HANDLES)]

    def opened(self, number: int) -> EventStore:
        return evlog.open(self.path, sync="always" if number == 0 else "none")

    # --- appending

    def version(self, stream: str) -> int:
        return max((row.version for row in self.rows if row.stream == stream), default=0)

    def event(self, type: str) -> NewEvent:
        self.made += 1
        return NewEvent(type, self.made, id=UUID(int=self.made * (1 << 100) + 7))

    def note(self, sent: list[tuple[str, NewEvent]]) -> None:
        self.sent.append(sent)
        for stream, event in sent:
            version = self.version(stream) + 1
            data = str(event.data).encode()
            self.rows.append(Row(len(self.rows) + 1, stream, version, event.type, event.id, data))  # type: ignore[arg-type]

    @rule(batch=batches, which=handles)
    def append(self, batch: list[tuple[str, list[str], str]], which: int) -> None:
        """Several streams at once, each with an expectation that may or may not hold."""
        ahead: dict[str, int] = {}
        refused: tuple[str, Any, int] | None = None
        appends: list[Any] = []
        sent: list[tuple[str, NewEvent]] = []
        for stream, kinds, expectation in batch:
            actual = ahead.get(stream, self.version(stream))
            expected: Any = {"right": actual, "none": 0, "less": max(0, actual - 1), "more": actual + 1}.get(
                expectation, expectation
            )
            holds = expected in ("any", actual) or (expected == "exists" and actual > 0)
            if not holds and refused is None:
                refused = (stream, expected, actual)
            events = [self.event(kind) for kind in kinds]
            appends.append((stream, events, expected))
            sent += [(stream, event) for event in events]
            ahead[stream] = actual + len(events)
        if refused is not None:
            with pytest.raises(WrongExpectedVersion) as caught:
                self.handles[which].append_many(appends)
            assert (caught.value.stream, caught.value.expected, caught.value.actual) == refused
            return
        first = len(self.rows)
        self.note(sent)
        results = self.handles[which].append_many(appends)
        for result, (stream, events, _) in zip(results, appends, strict=True):
            mine = self.rows[first : first + len(events)]
            first += len(events)
            assert result[:6] == (
                stream, mine[0].position, mine[-1].position, mine[0].version, mine[-1].version, False,
            )  # fmt: skip
            assert list(result.ids) == [row.id for row in mine]

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), which=handles)
    def retry(self, data: st.DataObject, which: int) -> None:
        """A whole append again is a duplicate, whatever it expects."""
        sent = data.draw(st.sampled_from(self.sent))
        results = self.handles[which].append_many([(stream, [event], 99) for stream, event in sent])
        for result, (stream, event) in zip(results, sent, strict=True):
            row = self.row_of(event)
            assert result[:6] == (stream, row.position, row.position, row.version, row.version, True)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), which=handles, how=st.sampled_from(["data", "type", "stream", "half", "twice"]))
    def conflict(self, data: st.DataObject, which: int, how: str) -> None:
        """A known id with anything else in it, or only a part of an append, is refused."""
        row = data.draw(st.sampled_from(self.rows))
        same = NewEvent(row.type, int(row.data), id=row.id)
        fresh = self.event("T")
        stream, events, error = row.stream, [same], IdConflict
        if how == "data":
            events = [NewEvent(row.type, -1, id=row.id)]
        elif how == "type":
            events = [NewEvent("Other", int(row.data), id=row.id)]
        elif how == "stream":
            stream = "other"
        elif how == "half":
            events = [fresh, same]
        else:
            events, error = [fresh, fresh], InvalidEvent  # type: ignore[assignment]
        with pytest.raises(error):
            self.handles[which].append(stream, events)

    @rule(data=st.data(), which=handles, news=st.lists(st.tuples(streams, types), max_size=4))
    def skip_known(self, data: st.DataObject, which: int, news: list[tuple[str, str]]) -> None:
        """An import takes what is new and passes over what is known, and over twins."""
        known = data.draw(st.lists(st.sampled_from(self.rows), max_size=3)) if self.rows else []
        lines = [(stream, self.event(kind)) for stream, kind in news]
        lines += lines[:1]
        lines += [(row.stream, NewEvent(row.type, int(row.data), id=row.id)) for row in known]
        lines = data.draw(st.permutations(lines))
        if not lines:
            return
        fresh: list[tuple[str, NewEvent]] = []
        duplicates = []
        seen = {row.id for row in self.rows}
        for stream, event in lines:
            duplicates.append(event.id in seen)
            if event.id not in seen:
                fresh.append((stream, event))
                seen.add(event.id)  # type: ignore[arg-type]
        if fresh:
            self.note(fresh)
        result = self.handles[which].append_encoded(
            [stream for stream, _ in lines], encode_events([event for _, event in lines]), skip_known=True
        )
        assert result.duplicates == duplicates
        assert result.positions == [self.row_of(event).position for _, event in lines]
        assert result.versions == [self.row_of(event).version for _, event in lines]

    def row_of(self, event: NewEvent) -> Row:
        return next(row for row in self.rows if row.id == event.id)

    # --- what may happen to a store

    @rule(which=handles)
    def reopen(self, which: int) -> None:
        self.handles[which].close()
        self.handles[which] = self.opened(which)

    @rule(data=st.data(), how=st.sampled_from(["remove", "empty", "cut", "flip", "zeros", "junk", "longer"]))
    def damage_derived(self, data: st.DataObject, how: str) -> None:
        """Damage a file that can be made anew. Handles that have it open keep what they have."""
        files = [
            path
            for path in sorted(Path(self.path).rglob("*"))
            if path.suffix in (".offsets", ".streams", ".types", ".ids") or path.name == "durable"
        ]
        if not files:
            return
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes())
        if how == "remove":
            path.unlink()
            return
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        if how == "empty":
            content.clear()
        elif how == "cut":
            del content[at:]
        elif how == "flip" and content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "zeros":
            content[at:] = bytes(len(content) - at)
        elif how == "junk":
            content[at : at + 50] = data.draw(st.binary(min_size=1, max_size=50))
        else:
            content += data.draw(st.binary(min_size=1, max_size=90))
        other = path.with_suffix(".other")
        other.write_bytes(content)
        other.rename(path)

    @rule(data=st.data(), how=st.sampled_from(["zeros", "junk", "half", "copy", "magic"]))
    def tear_tail(self, data: st.DataObject, how: str) -> None:
        """What a writer leaves that dies within its write."""
        log = max(Path(self.path, "segments").glob("*.log"))
        content = log.read_bytes()
        frame = content[content.find(FRAME_MAGIC) :] if FRAME_MAGIC in content else FRAME_MAGIC
        length = data.draw(st.integers(1, 100))
        tail = {
            "zeros": bytes(length),
            "junk": data.draw(st.binary(min_size=1, max_size=100)),
            "half": frame[:length],
            "copy": frame,
            "magic": FRAME_MAGIC * length,
        }[how]
        with log.open("ab") as file:
            file.write(tail)

    # --- what every handle has to say

    @invariant()
    def every_handle_agrees(self) -> None:
        for handle in self.handles:
            assert handle.head == len(self.rows)
            assert [as_row(event) for event in handle.read_all()] == self.rows

    @rule(
        which=handles,
        stream=streams,
        first=st.integers(0, 6),
        count=st.integers(-1, 6),
        reverse=st.booleans(),
    )
    def read_stream(self, which: int, stream: str, first: int, count: int, reverse: bool) -> None:
        handle = self.handles[which]
        last = None if count < 0 else first + count
        mine = [row for row in self.rows if row.stream == stream]
        assert handle.stream_version(stream) == len(mine)
        found = [as_row(event) for event in handle.read(stream, first, last, reverse=reverse)]
        chosen = [row for row in mine if row.version >= first and (last is None or row.version <= last)]
        assert found == (chosen[::-1] if reverse else chosen)

    @rule(
        which=handles,
        after=st.integers(0, 20),
        to=st.none() | st.integers(0, 40),
        category=st.sampled_from([None, None, "a", "b"]),
        kinds=st.none() | st.sets(types, max_size=2),
        reverse=st.booleans(),
        limit=st.none() | st.integers(0, 5),
    )
    def read_all(
        self,
        which: int,
        after: int,
        to: int | None,
        category: str | None,
        kinds: set[str] | None,
        reverse: bool,
        limit: int | None,
    ) -> None:
        events = self.handles[which].read_all(
            after, to, category=category, types=kinds, reverse=reverse, limit=limit
        )
        chosen = [
            row
            for row in self.rows[after:to]
            if (category is None or category_of(row.stream) == category)
            and (kinds is None or row.type in kinds)
        ]
        assert [as_row(event) for event in events] == (chosen[::-1] if reverse else chosen)[:limit]

    @rule(which=handles)
    def catalog(self, which: int) -> None:
        handle = self.handles[which]
        names = sorted({row.stream for row in self.rows})
        assert [(stream.name, stream.events) for stream in handle.streams()] == [
            (name, self.version(name)) for name in names
        ]
        info = handle.info()
        assert (info.events, info.streams, info.last_position) == (len(self.rows), len(names), len(self.rows))

    @rule()
    def everything_anew(self) -> None:
        """A process that knows nothing agrees too, and changes nothing by looking."""
        try:
            with evlog.open(self.path) as cold:
                assert [as_row(event) for event in cold.read_all()] == self.rows
        except EvlogError as error:
            raise AssertionError(f"a cold reader failed: {error}") from error


def as_row(event: evlog.Event) -> Row:
    return Row(event.position, event.stream, event.version, event.type, event.id, event.data)
