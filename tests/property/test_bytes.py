"""Arbitrary bytes in the place of any file: a documented error or the right events, nothing in between."""

from __future__ import annotations

import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog.errors import CorruptionError, NotAStore, UnsupportedFormat
from evlog.files.format.frames import FRAME_MAGIC
from evlog.files.format.headers import FILE_MAGIC
from tests.support.helpers import Fact, facts, fill, frames_of, new, number_id, small_store

PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
COUNT = 13  # eight in a sealed segment, five in the active one
DOCUMENTED = (CorruptionError, NotAStore, UnsupportedFormat)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=PLACE) as directory:
        path = Path(directory, "store")
        with small_store(path) as store:
            fill(store, COUNT)
        yield path


NAMES = [
    "manifest.json",
    "durable",
    "lock",
    *(f"segments/{1:020d}.0.{suffix}" for suffix in ("log", "offsets", "streams", "types", "ids")),
    *(f"segments/{9:020d}.0.{suffix}" for suffix in ("log", "offsets")),
]
ESSENTIAL = frozenset(name for name in NAMES if name.endswith((".log", "manifest.json")))

pieces = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [FILE_MAGIC, FRAME_MAGIC, b"\0" * 40, b"\xff" * 40, b'{"format":1', b',"crc32":"', b"evDU"]
    ),
    st.integers(1, 5000).map(bytes),
)


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[float, int, bytes]]:
    """Places (as shares of the file), how many bytes are removed there, and what replaces them."""
    place = st.floats(0, 1)
    return draw(
        st.lists(
            st.tuples(place, st.sampled_from([0, 1, 4, 8, 40, 64, 10**6]), pieces), min_size=1, max_size=4
        )
    )


def apply(content: bytes, changed: list[tuple[float, int, bytes]]) -> bytes:
    for share, removed, piece in changed:
        at = round(share * len(content))
        content = content[:at] + piece + content[at + removed :]
    return content


class Outcome:
    """What a store with a damaged file answers; each of these may fail in a documented way."""

    def __init__(self, path: Path) -> None:
        self.failed = False
        self.seen: list[Fact] = []
        self.look(path)

    def look(self, path: Path) -> None:
        try:
            store = evlog.open(path, lock_timeout=5)
        except DOCUMENTED:
            self.failed = True
            return
        with store:
            reads: list[Callable[[], Iterable[evlog.Event]]] = [
                store.read_all,
                lambda: store.read_all(reverse=True),
                lambda: store.read("s-1"),
                lambda: store.read_all(types=["T1"]),
            ]
            for read in reads:
                try:
                    for event in read():
                        self.seen += facts([event])
                except DOCUMENTED:
                    self.failed = True
            calls: list[Callable[[], object]] = [
                lambda: list(store.streams()),
                store.info,
                lambda: store.stream_version("s-2"),
                lambda: store.append("s-0", [new(0, "T0", id=number_id(0))]),  # known: nothing is written
            ]
            for call in calls:
                try:
                    call()
                except DOCUMENTED:
                    self.failed = True


def original(template: Path) -> list[Fact]:
    with evlog.open(template) as store:
        return facts(store.read_all())


@given(name=st.sampled_from(NAMES), changed=changes())
def test_changed_file_is_a_documented_error_or_changes_nothing(
    template: Path, name: str, changed: list[tuple[float, int, bytes]]
) -> None:
    whole = original(template)
    with tempfile.TemporaryDirectory(dir=PLACE) as directory:
        path = Path(directory, "store")
        shutil.copytree(template, path)
        before = (path / name).read_bytes()
        after = apply(before, changed)
        (path / name).write_bytes(after)
        outcome = Outcome(path)
        assert set(outcome.seen) <= set(whole)  # no other event is ever returned
        if name not in ESSENTIAL:
            assert not outcome.failed
            assert outcome.seen[: len(whole)] == whole
        elif not after.startswith(before.rstrip(b"\0")):  # except preallocated zeros
            assert outcome.failed


@given(content=st.binary(max_size=400) | st.integers(0, 100_000).map(bytes), name=st.sampled_from(NAMES))
def test_file_of_arbitrary_bytes_is_a_documented_error_or_changes_nothing(
    template: Path, name: str, content: bytes
) -> None:
    whole = original(template)
    with tempfile.TemporaryDirectory(dir=PLACE) as directory:
        path = Path(directory, "store")
        shutil.copytree(template, path)
        (path / name).write_bytes(content)
        tracemalloc.start()
        try:
            outcome = Outcome(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 << 20
        assert outcome.failed == (name in ESSENTIAL)
        assert set(outcome.seen) <= set(whole)


@given(tail=st.binary(max_size=200) | pieces, room=st.sampled_from([0, 30, 70_000]))
def test_any_bytes_after_the_last_frame_but_zeros_are_cut_by_the_next_writer(
    template: Path, tail: bytes, room: int
) -> None:
    with tempfile.TemporaryDirectory(dir=PLACE) as directory:
        path = Path(directory, "store")
        shutil.copytree(template, path)
        log = path / f"segments/{9:020d}.0.log"
        frames = frames_of(log)
        log.write_bytes(frames + tail + bytes(room))
        torn_bytes = len(tail.rstrip(b"\0"))
        with evlog.open(path) as store:
            assert store.append("s-9", [new(99)]).first_position == COUNT + 1
            assert [(cut.path, cut.offset, cut.cut_bytes) for cut in store.torn_tails] == (
                [(str(log), len(frames), torn_bytes)] if torn_bytes else []
            )
        with evlog.open(path) as store:
            assert facts(store.read_all(to=COUNT)) == original(template)
            assert store.head == COUNT + 1
