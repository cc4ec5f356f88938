"""A store and a plain list side by side: every operation is done on both.

Three handles hold one directory. Between any two appends derived files are damaged, the end of the log is
torn, handles are reopened, policies are set and streams deleted. After every step each handle must give the
answers that the list gives.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import evlog
from evlog import EventStore, IfNone, NewEvent, Query
from evlog.errors import (
    ConditionFailed,
    EvlogError,
    IdConflict,
    InvalidArgument,
    InvalidEvent,
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.files.format.frames import FRAME_MAGIC
from evlog.model.encoding import encode_events
from evlog.model.events import category_of
from tests.support.helpers import Clock, compress_all, expire_look, small_store

PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
HANDLES = 3

streams = st.sampled_from(["a", "a-1", "a-2", "b-1", "c"])
types = st.sampled_from(["T", "U", "V"])
handles = st.integers(0, HANDLES - 1)
mortal = st.sampled_from(
    ["b-1", "c"]
)  # only these get tombstones, or there would soon be nothing to append to
expectations = st.sampled_from(["any", "any", "right", "right", "exists", "none", "less", "more"])
batches = st.lists(
    st.tuples(streams, st.lists(types, min_size=1, max_size=3), expectations), min_size=1, max_size=3
)


wanted_tags = st.lists(st.sampled_from(["m:0", "m:1", "n:0", "n:2", "none"]), max_size=2)


def tags_of_event(number: int) -> list[str]:
    """Return the tags of the event whose data is this number."""
    return [f"m:{number % 3}", f"n:{number % 5}"] if number % 4 else []


class Row(NamedTuple):
    """What the list knows of an event."""

    position: int
    stream: str
    version: int
    type: str
    id: UUID
    data: bytes
    time_us: int

    @property
    def is_system(self) -> bool:
        return self.stream.startswith("$")

    def matches(self, kinds: Collection[str], wanted: Collection[str]) -> bool:
        """Return whether it is a user's event with all the tags, and of one of the types if any are given."""
        if self.is_system or (kinds and self.type not in kinds):
            return False
        return set(wanted) <= set(tags_of_event(int(self.data)))


class StoreMachine(RuleBasedStateMachine):
    """The rules. `rows` is the plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(dir=PLACE, prefix="evlog-machine-")
        self.path = f"{self.directory}/store"
        self.patches = pytest.MonkeyPatch()
        compress_all(self.patches, 200)
        self.prepare()
        self.clock = Clock()
        self.patches.setattr(time, "time_ns", self.clock)
        self.rows: list[Row] = []
        self.kept: dict[str, dict[str, Any]] = {}  # by metadata stream, the words of the policy
        self.removed: set[int] = set()  # positions of events that compactions removed
        self.sent: list[list[tuple[str, NewEvent]]] = []
        self.made = 0
        self.handles: list[EventStore] = []

    def prepare(self) -> None:
        """Replace parts of the package, by `self.patches`."""

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
        # Above the ids of the store's own events, and mostly rising: these are not looked up.
        steps = -self.made if self.made % 4 == 0 else self.made
        id = UUID(int=(1 << 127) + steps * (1 << 100) + 7)
        return NewEvent(type, self.made, id=id, tags=tags_of_event(self.made))

    def note(self, sent: list[tuple[str, NewEvent]]) -> None:
        self.sent.append(sent)
        for stream, event in sent:
            version = self.version(stream) + 1
            data = str(event.data).encode()
            place = (len(self.rows) + 1, stream, version)
            self.rows.append(Row(*place, event.type, event.id, data, self.clock.us))  # type: ignore[arg-type]

    # --- what is kept

    def word(self, stream: str, name: str) -> Any:
        own = self.kept.get(f"$${stream}", {}).get(name)
        return own or self.kept.get(f"$$$ce-{category_of(stream)}", {}).get(name)

    def own_word(self, stream: str, name: str) -> Any:
        return self.kept.get(f"$${stream}", {}).get(name)

    def is_deleted(self, stream: str) -> bool:
        return self.own_word(stream, "$tombstone") or 0 < self.version(stream) <= (
            self.own_word(stream, "$deleted") or 0
        )

    def visible(self, stream: str) -> list[Row]:
        """Return what a read of the stream must give."""
        if self.own_word(stream, "$tombstone"):
            return []
        rows = [row for row in self.rows if row.stream == stream]
        first = max(
            self.own_word(stream, "$tb") or 1,
            (self.own_word(stream, "$deleted") or 0) + 1,
            len(rows) - (self.word(stream, "$maxCount") or 1e9) + 1,
        )
        oldest = self.clock.us - (self.word(stream, "$maxAge") or 1e9) * 1_000_000
        young = [row for row in rows if row.version >= first and row.time_us >= oldest]
        return [row for row in young if row.position not in self.removed]

    def present(self) -> list[Row]:
        """Return the events that no compaction has removed."""
        return [row for row in self.rows if row.position not in self.removed]

    def note_policy(self, name: str, words: dict[str, Any]) -> None:
        """Note the event of a policy, unless the policy changes nothing."""
        if words == self.kept.get(name, {}):
            return
        self.kept[name] = words
        version = self.version(name) + 1
        (event,) = self.handles[0].read_all(include_system=True, reverse=True, limit=1)
        row = as_row(event)
        assert (row.position, row.stream, row.version) == (len(self.rows) + 1, name, version)
        assert json.loads(row.data) == words
        self.rows.append(row)

    @rule(seconds=st.integers(1, 5))
    def time_passes(self, seconds: int) -> None:
        self.clock.us += seconds * 1_000_000

    @rule(
        which=handles,
        stream=streams,
        category=st.none() | st.sampled_from(["a", "b"]),
        count=st.none() | st.integers(1, 4),
        age=st.none() | st.integers(1, 9),
        before=st.none() | st.integers(1, 5),
        clear=st.booleans(),
    )
    def retain(
        self,
        which: int,
        stream: str,
        category: str | None,
        count: int | None,
        age: int | None,
        before: int | None,
        clear: bool,
    ) -> None:
        """Set policies of streams and of categories, some of which make no sense."""
        if category is not None:
            before = None
        target: dict[str, Any] = {"stream": stream} if category is None else {"category": category}
        settings: dict[str, Any] = {"max_count": count, "max_age": age, "before": before, "clear": clear}
        refused: type[EvlogError] | None = None
        if (count, age, before, clear) == (None, None, None, False):
            refused = InvalidArgument
        elif category is None and self.own_word(stream, "$tombstone"):
            refused = StreamTombstoned
        elif before is not None and before > max(1, self.version(stream) + 1):
            refused = InvalidArgument
        if refused is not None:
            with pytest.raises(refused):
                self.handles[which].set_retention(**target, **settings)
            return
        self.handles[which].set_retention(**target, **settings)
        name = f"$${stream}" if category is None else f"$$$ce-{category}"
        given = {"$maxCount": count, "$maxAge": age, "$tb": before}
        words = {} if clear else dict(self.kept.get(name, {}))
        words |= {word: value for word, value in given.items() if value is not None}
        if words.get("$tb") == 1:
            del words["$tb"]
        self.note_policy(name, words)

    @rule(
        which=handles, stream=streams, expectation=st.sampled_from(["any", "any", "right", "exists", "more"])
    )
    def delete(self, which: int, stream: str, expectation: str) -> None:
        self.delete_stream(which, stream, expectation, tombstone=False)

    @rule(which=handles, stream=mortal)
    def delete_for_ever(self, which: int, stream: str) -> None:
        self.delete_stream(which, stream, "any", tombstone=True)

    def delete_stream(self, which: int, stream: str, expectation: str, *, tombstone: bool) -> None:
        last = self.version(stream)
        expected: Any = {"right": last, "more": last + 1}.get(expectation, expectation)
        refused: type[EvlogError] | None = None
        if not last:
            refused = StreamNotFound
        elif expected not in ("any", "exists", last) or (expected == "exists" and self.is_deleted(stream)):
            refused = WrongExpectedVersion
        if refused is not None:
            with pytest.raises(refused):
                self.handles[which].delete_stream(stream, tombstone=tombstone, expected=expected)
            return
        deleted = self.handles[which].delete_stream(stream, tombstone=tombstone, expected=expected)
        assert deleted == last
        words = dict(self.kept.get(f"$${stream}", {}))
        if not self.is_deleted(stream):
            words["$deleted"] = last
        if tombstone:
            words["$tombstone"] = True
        self.note_policy(f"$${stream}", words)

    @rule(which=handles, compress=st.booleans())
    def compact(self, which: int, compress: bool) -> None:
        """Compact: hidden events are removed, and those of the store's own that a later one replaced."""
        point = len(self.rows)
        stay = {row.position for stream in {row.stream for row in self.rows} for row in self.staying(stream)}
        hidden = {row.position for row in self.present()} - stay
        done = self.handles[which].compact(compress=compress)
        found = [as_row(event) for event in self.handles[which].read_all(include_system=True)]
        noted = [row for row in found if row.position > point]
        assert [row.type for row in noted] in ([], ["$CompactionStarted", "$CompactionFinished"])
        self.rows += noted
        went = {row.position for row in self.present()} - {row.position for row in found}
        assert went == hidden
        assert done.events_removed == len(went)
        self.removed |= went

    def staying(self, stream: str) -> list[Row]:
        """Return what a compaction leaves of a stream."""
        if not stream.startswith("$"):
            return self.visible(stream)
        rows = [row for row in self.present() if row.stream == stream]
        return rows[-1:] if stream.startswith("$$") else rows

    @rule(batch=batches, which=handles)
    def append(self, batch: list[tuple[str, list[str], str]], which: int) -> None:
        """Append to several streams at once, each with an expectation that may or may not hold."""
        ahead: dict[str, int] = {}
        refused: tuple[str, Any, int] | None = None
        appends: list[Any] = []
        sent: list[tuple[str, NewEvent]] = []
        for stream, kinds, expectation in batch:
            actual = ahead.get(stream, self.version(stream))
            expected: Any = {"right": actual, "none": 0, "less": max(0, actual - 1), "more": actual + 1}.get(
                expectation, expectation
            )
            if stream not in ahead and expected in (0, "exists") and self.is_deleted(stream):
                found = 0  # a deleted stream does not exist
            else:
                found = actual
            holds = expected in ("any", found) or (expected == "exists" and found > 0)
            if not holds and refused is None:
                refused = (stream, expected, found)
            events = [self.event(kind) for kind in kinds]
            appends.append((stream, events, expected))
            sent += [(stream, event) for event in events]
            ahead[stream] = actual + len(events)
        forbidden = [stream for stream, _, _ in batch if self.own_word(stream, "$tombstone")]
        if forbidden:
            with pytest.raises(StreamTombstoned) as tombstoned:
                self.handles[which].append_many(appends)
            assert tombstoned.value.stream == forbidden[0]
            return
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
        """Make a whole append again: it is a duplicate, whatever version it expects."""
        sent = data.draw(st.sampled_from(self.sent))
        results = self.handles[which].append_many([(stream, [event], 99) for stream, event in sent])
        for result, (stream, event) in zip(results, sent, strict=True):
            row = self.row_of(event)
            assert result[:6] == (stream, row.position, row.position, row.version, row.version, True)

    @precondition(lambda self: self.user_rows())
    @rule(data=st.data(), which=handles, how=st.sampled_from(["data", "type", "stream", "half", "twice"]))
    def conflict(self, data: st.DataObject, which: int, how: str) -> None:
        """Append a known id with other content, or a known id beside a new one: both are refused."""
        row = data.draw(st.sampled_from(self.user_rows()))
        if row.position in self.removed:
            return  # there it is found out in most cases only
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
        """Import: new events are appended, known ones and twins in the import are skipped."""
        rows = self.user_rows()
        known = data.draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
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
        names, events = [stream for stream, _ in lines], encode_events([event for _, event in lines])
        if any(self.own_word(stream, "$tombstone") for stream, _ in fresh):
            with pytest.raises(StreamTombstoned):
                self.handles[which].append_encoded(names, events, skip_known=True)
            return
        if fresh:
            self.note(fresh)
        result = self.handles[which].append_encoded(names, events, skip_known=True)
        assert result.duplicates == duplicates
        assert result.positions == [self.row_of(event).position for _, event in lines]
        assert result.versions == [self.row_of(event).version for _, event in lines]

    def user_rows(self) -> list[Row]:
        return [row for row in self.rows if not row.is_system]

    def row_of(self, event: NewEvent) -> Row:
        return next(row for row in self.rows if row.id == event.id)

    # --- what may happen to a store

    @rule(which=handles)
    def reopen(self, which: int) -> None:
        self.handles[which].close()
        self.handles[which] = self.opened(which)

    @rule(
        which=handles,
        stream=st.sampled_from(["a", "a-1"]),
        kinds=st.lists(types, max_size=2),
        wanted=wanted_tags,
        after=st.integers(0, 40),
    )
    def append_if(self, which: int, stream: str, kinds: list[str], wanted: list[str], after: int) -> None:
        """Append if nothing matches; of a removed event only the tags count."""
        after = min(after, len(self.rows))
        matching = [
            row.position
            for row in self.rows[after:]
            if row.matches(kinds, wanted) and (wanted or row.position not in self.removed)
        ]
        event = self.event("T")
        condition = IfNone(Query(kinds, wanted), after)
        if matching:
            with pytest.raises(ConditionFailed) as caught:
                self.handles[which].append(stream, [event], conditions=condition)
            assert caught.value.position == matching[0]
        else:
            self.handles[which].append(stream, [event], conditions=condition)
            self.note([(stream, event)])

    @rule(data=st.data(), how=st.sampled_from(["remove", "empty", "cut", "flip", "zeros", "junk", "longer"]))
    def damage_derived(self, data: st.DataObject, how: str) -> None:
        """Damage a file that can be rebuilt. Handles that have it open keep what they have."""
        files = [
            path
            for path in sorted(Path(self.path).rglob("*"))
            if path.suffix in (".offsets", ".streams", ".types", ".ids", ".tags") or path.name == "durable"
        ]
        if not files:
            return
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes())
        if path.name == "durable":
            for handle in self.handles:
                expire_look(handle)  # a file in its place is noticed within 10 ms
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
        """Leave at the log's end what a writer leaves that is killed during its write."""
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

    # --- what every handle must answer

    @invariant()
    def every_handle_agrees(self) -> None:
        for handle in self.handles:
            assert handle.head == len(self.rows)
            present = self.present()
            assert [as_row(event) for event in handle.read_all(include_system=True)] == present
            assert [as_row(event) for event in handle.read_all()] == [r for r in present if not r.is_system]

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
        mine = self.visible(stream)
        assert handle.stream_version(stream) == self.version(stream)
        assert handle.has_stream(stream) == (self.version(stream) > 0 and not self.is_deleted(stream))
        found = [as_row(event) for event in handle.read(stream, first, last, reverse=reverse)]
        chosen = [row for row in mine if row.version >= first and (last is None or row.version <= last)]
        assert found == (chosen[::-1] if reverse else chosen)

    @rule(
        which=handles,
        after=st.integers(0, 20),
        to=st.none() | st.integers(0, 40),
        category=st.sampled_from([None, None, "a", "b"]),
        kinds=st.none() | st.sets(types, max_size=2),
        wanted=wanted_tags,
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
        wanted: list[str],
        reverse: bool,
        limit: int | None,
    ) -> None:
        events = self.handles[which].read_all(
            after, to, category=category, types=kinds, tags=wanted, reverse=reverse, limit=limit
        )
        chosen = [
            row
            for row in self.rows[after:to]
            if (category is None or category_of(row.stream) == category)
            and (kinds is None or row.type in kinds)
            and row.matches((), wanted)
            and row.position not in self.removed
        ]
        assert [as_row(event) for event in events] == (chosen[::-1] if reverse else chosen)[:limit]

    @rule(which=handles)
    def catalog(self, which: int) -> None:
        handle = self.handles[which]
        rows = self.user_rows()
        every = sorted({row.stream for row in rows})
        names = [name for name in every if not self.is_deleted(name)]
        assert [info.stream for info in handle.streams()] == names
        assert [stream[:4] for stream in handle.streams(include_deleted=True)] == [
            (name, count, self.version(name) - count + 1, self.version(name))
            for name in every
            for count in [len(self.visible(name))]
        ]
        info = handle.info()
        present = self.present()
        assert (info.events, info.streams) == (sum(not row.is_system for row in present), len(names))
        assert info.last_position == max((row.position for row in present), default=0)
        assert info.deleted_streams == len(every) - len(names)
        policies = handle.policies()
        assert len(policies) == sum(words != {} for words in self.kept.values())

    @rule()
    def open_a_new_handle(self) -> None:
        """Compare what a handle that is opened now reads; reading changes nothing."""
        try:
            with evlog.open(self.path) as cold:
                assert [as_row(event) for event in cold.read_all(include_system=True)] == self.present()
                for stream in ("a", "a-1", "b-1"):
                    assert [as_row(event) for event in cold.read(stream)] == self.visible(stream)
        except EvlogError as error:
            raise AssertionError(f"a cold reader failed: {error}") from error


def as_row(event: evlog.Event) -> Row:
    place = (event.position, event.stream, event.version)
    return Row(*place, event.type, event.id, event.data, event.time_us)
