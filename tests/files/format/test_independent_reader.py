"""A reader that shares no code with evlog reads the same from the files of a store."""

from __future__ import annotations

import ast
import sys
import zlib
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, NewEvent
from tests.files.format import independent_reader as reader
from tests.golden.history import STORE

pytestmark = pytest.mark.exact_hashes


def check(store: EventStore) -> None:
    """Check events and look-ups of a store."""
    segments = reader.read_store(Path(store.path))
    found = [event for segment in segments for event in segment.events]
    visible = [event for event in found if not event.stream.startswith("$")]
    assert [(e.position, e.version, e.stream, e.type, e.id, e.time_us, e.data) for e in visible] == [
        (e.position, e.version, e.stream, e.type, e.id.bytes, e.time_us, e.data) for e in store.read_all()
    ]
    for segment in segments:
        if not segment.sealed:
            continue
        for event in segment.events:
            assert event in segment.find("streams", reader.hash_stream(event.stream))
            assert event in segment.find("types", zlib.crc32(event.type.encode()))
            assert event in segment.find("ids", zlib.crc32(event.id))
        assert segment.find("streams", reader.hash_stream("no such stream")) == []


@pytest.mark.parametrize("compacted", [False, True])
def test_a_store_of_many_segments_is_read_alike(store: EventStore, compacted: bool) -> None:
    for number in range(60):
        tags = [f"n:{number % 3}"] if number % 2 else []
        store.append(
            f"é{number % 3}-{number % 7}", [NewEvent("T", {"n": number}, tags=tags), NewEvent("U", "x")]
        )
    every = {(e.position, e.version, e.id.bytes) for e in store.read_all()}
    if compacted:
        store.set_retention("é0-0", max_count=1)
        store.delete_stream("é1-1")
        store.compact()
    check(store)
    kept = {(e.position, e.version, e.id.bytes) for e in store.read_all()}
    removed = [row for segment in reader.read_store(Path(store.path)) for row in segment.removed()]
    assert every - kept == every.intersection(removed)
    assert bool(removed) == compacted
    tagged = [e for s in reader.read_store(Path(store.path)) if s.row["tagged_events"] and s.sealed
              for e in s.find("tags", reader.hash_tag("n:1"))]  # fmt: skip
    assert tagged
    assert all(b'"n:1"' in (event.metadata or b"") for event in tagged)


def test_the_golden_store_is_read_alike() -> None:
    with evlog.open(STORE) as store:
        check(store)


def test_the_reader_imports_nothing_of_evlog() -> None:
    tree = ast.parse(Path(reader.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "msgpack"}
