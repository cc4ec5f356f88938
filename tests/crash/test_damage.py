"""What damage leads to: an unacknowledged tail is cut, acknowledged data stay, derived data are rebuilt."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from evlog.errors import CorruptionError, EvlogError, NotAStore, StoreNotFound, UnsupportedFormat
from evlog.files.format.marks import (
    ACKNOWLEDGED_MAGIC,
    DURABLE_MAGIC,
    MARK_AT,
    MARK_BYTES,
    SUSPECT_MAGIC,
    WRITTEN_MAGIC,
    Mark,
    encode_mark,
)
from evlog.model.events import Event
from evlog.store import EventStore
from tests.crash import recordings
from tests.crash.check import check_reads, check_recovery, materialise, open_store
from tests.crash.damage import (
    ACTIVE,
    DIRECTORIES,
    DURABLE,
    MANIFEST,
    SEALED,
    STORE,
    Files,
    flip,
    frame_offsets,
    newer_header,
    newer_manifest,
    read_files,
    segment,
    sound_store,
)
from tests.crash.history import Knowledge, content_of, event
from tests.crash.states import State

Damage = Callable[[bytes], bytes | None]  # of a file's content; None removes the file

LOG = segment(ACTIVE, "log")
LAST = SEALED[-1]


def place(root: str, path: str, damage: Damage, room: int = 0) -> tuple[Files, Knowledge]:
    """Put the store there with one file damaged, and zeros after it; return its files and what is known."""
    state, known = sound_store()
    damaged = damage(state.files.pop(path))
    if damaged is not None:
        state.files[path] = damaged + bytes(room)
    materialise(state, root)
    return state.files, known


def read_until_error(store: EventStore) -> tuple[list[Event], EvlogError | None]:
    events: list[Event] = []
    try:
        events.extend(store.read_all())
    except EvlogError as error:
        return events, error
    return events, None


# --- after the last frame: never acknowledged


TORN: dict[str, Damage] = {
    "zeros and junk": lambda log: log + bytes(700) + b"\xa5",
    "junk": lambda log: log + b"\xa5\x00junk" * 90,
    "one byte": lambda log: log + b"\xe5",
    "a magic": lambda log: log + b"\xe5EVF",
    "half a frame": lambda log: log + log[64:130],
    "a frame of another place": lambda log: log + log[64 : frame_offsets(log)[1]],
    "a frame of another segment": lambda log: log + sound_store()[0].files[segment(LAST, "log")][64:],
}


@pytest.mark.parametrize("damage", TORN.values(), ids=TORN.keys())
@pytest.mark.parametrize("marks", ["with marks", "without marks"])
@pytest.mark.parametrize("room", [0, 3000])
def test_torn_tail_is_cut_and_reported(root: str, damage: Damage, marks: str, room: int) -> None:
    files, known = place(root, LOG, damage, room)
    sound = len(sound_store()[0].files[LOG])
    if marks == "without marks":
        os.remove(f"{root}/{DURABLE}")
    with open_store(f"{root}/{STORE}") as store:
        assert len(check_reads(store, known)) == 15
        assert store.append_many(known.batches[0].appends)[0].duplicate
        assert [tail[1:] for tail in store.torn_tails] == [(sound, len(files[LOG].rstrip(b"\0")) - sound)]
    assert read_files(root)[LOG] == sound_store()[0].files[LOG]
    check_recovery(f"{root}/{STORE}", known)


@pytest.mark.parametrize("room", [1, 39, 40, 700, 8192])
def test_preallocated_zeros_are_not_a_torn_tail(root: str, room: int) -> None:
    files, known = place(root, LOG, lambda log: log, room)
    with open_store(f"{root}/{STORE}") as store:
        assert len(check_reads(store, known)) == 15
        assert store.append_many(known.batches[0].appends)[0].duplicate
        assert store.torn_tails == []
    assert read_files(root)[LOG] == files[LOG]
    check_recovery(f"{root}/{STORE}", known)


def test_torn_final_frame_is_cut_where_nothing_says_that_it_was_synced(root: str) -> None:
    state, known = sound_store()
    last = frame_offsets(state.files[LOG])[-1]
    for size in range(last + 1, len(state.files[LOG]), 7):
        files = state.files | {LOG: state.files[LOG][:size] + bytes(size % 3 * 1000)}
        del files[DURABLE]
        with recordings.scratch() as directory:
            materialise(State(files, DIRECTORIES), directory)
            with open_store(f"{directory}/{STORE}") as store:
                assert store.head == 13
                assert not store.append_many(known.batches[-1].appends)[0].duplicate
                torn_bytes = len(files[LOG].rstrip(b"\0")) - last
                assert [tail[1:] for tail in store.torn_tails] == [(last, torn_bytes)]
            check_recovery(f"{directory}/{STORE}", known)


# --- within what was acknowledged


def at_frame(number: int, within: int) -> Damage:
    """Return the damage that flips a bit in one of the log's frames; 0..39 is its header."""
    return lambda log: flip(log, frame_offsets(log)[number] + within)


DAMAGED_ACTIVE: dict[str, tuple[Damage, int]] = {  # and how many events are before the damage
    "cut within the last frame": (lambda log: log[:-1], 13),
    "cut within the last header": (lambda log: log[: frame_offsets(log)[-1] + 20], 13),
    "cut before the last frame": (lambda log: log[: frame_offsets(log)[-1]], 13),
    "cut to its header": (lambda log: log[:64], 11),
    "last frame zeroed": (lambda log: log[: frame_offsets(log)[-1]].ljust(len(log), b"\0"), 13),
    "last magic": (at_frame(-1, 0), 13),
    "last length": (at_frame(-1, 4), 13),
    "last header": (at_frame(-1, 36), 13),
    "last body": (at_frame(-1, 60), 13),
    "last byte": (lambda log: flip(log, -1), 13),
    "header before a sound frame": (at_frame(0, 9), 11),
    "body before a sound frame": (at_frame(0, 90), 11),
    "middle frame": (at_frame(1, 55), 12),
}


@pytest.mark.parametrize(("damage", "before"), DAMAGED_ACTIVE.values(), ids=DAMAGED_ACTIVE.keys())
@pytest.mark.parametrize("offsets", [True, False], ids=["", "without .offsets"])
@pytest.mark.parametrize("room", [0, 3000])
def test_damage_of_what_was_acknowledged_is_an_error_and_nothing_is_cut(
    root: str, damage: Damage, before: int, offsets: bool, room: int
) -> None:
    files, known = place(root, LOG, damage, room)
    if not offsets:
        os.remove(f"{root}/{segment(ACTIVE, 'offsets')}")
    contents = [content for batch in known.batches for content in batch.contents]
    with open_store(f"{root}/{STORE}") as store:
        events, error = read_until_error(store)
        assert list(map(content_of, events)) == contents[:before]
        check_is_damage(error, LOG)
        assert [event.position for event in store.read_all(to=11)] == list(range(1, 12))
        error = append_error(store)
    damaged = files[LOG][: len(files[LOG]) - room]
    assert read_files(root)[LOG][: len(damaged)] == damaged, "something was cut or changed"
    if error is not None:
        check_is_damage(error, LOG)
    with open_store(f"{root}/{STORE}") as store:
        assert list(map(content_of, read_until_error(store)[0])) == contents[:before]


def check_is_damage(error: EvlogError | None, path: str) -> None:
    assert isinstance(error, CorruptionError)
    assert error.path.endswith(path)
    assert error.offset is not None


def append_error(store: EventStore) -> EvlogError | None:
    try:
        store.append("new", [event(77)])
    except EvlogError as error:
        return error
    return None


DAMAGED_SEALED: dict[str, Damage] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "shortened": lambda log: log[:-1],
    "lengthened": lambda log: log + b"\0",
    "file header": lambda log: flip(log, 20),
    "frame header": lambda log: flip(log, 70),
    "frame body": lambda log: flip(log, 120),
    "of another segment": lambda _: sound_store()[0].files[segment(8, "log")],
    "zeros": lambda log: bytes(len(log)),
}


@pytest.mark.parametrize("offsets", [True, False], ids=["", "without .offsets"])
@pytest.mark.parametrize("damage", DAMAGED_SEALED.values(), ids=DAMAGED_SEALED.keys())
def test_damage_of_a_sealed_segment_is_an_error_and_the_rest_stays_readable(
    root: str, damage: Damage, offsets: bool
) -> None:
    path = segment(5, "log")
    files, known = place(root, path, damage)
    if not offsets:
        os.remove(f"{root}/{segment(5, 'offsets')}")
    contents = [content for batch in known.batches for content in batch.contents]
    with open_store(f"{root}/{STORE}") as store:
        events, error = read_until_error(store)
        assert [event.position for event in events] == [1, 2, 3, 4]
        assert isinstance(error, CorruptionError)
        assert error.path.endswith(path)
        assert list(map(content_of, store.read_all(after=7))) == contents[7:]
        assert list(map(content_of, store.read_all(after=7, reverse=True))) == contents[7:][::-1]
        append_error(store)
        _, again = read_until_error(store)
        assert isinstance(again, CorruptionError)
    assert read_files(root).get(path) == files.get(path), "the damaged file was touched"


def test_a_log_of_another_store_is_refused(root: str) -> None:
    with recordings.scratch() as elsewhere:
        os.mkdir(f"{elsewhere}/above")
        with open_store(f"{elsewhere}/{STORE}", create=True) as other:
            other.append("a", [event(1)])
        foreign = read_files(elsewhere)[segment(1, "log")]
    place(root, segment(1, "log"), lambda _: foreign)
    with open_store(f"{root}/{STORE}") as store, pytest.raises((NotAStore, CorruptionError)):
        list(store.read_all())


# --- what is derived


def hole(at: int, size: int) -> Damage:
    return lambda index: index[:at] + bytes(size) + index[at + size :]


BROKEN: dict[str, Damage] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "zeros": lambda index: bytes(len(index)),
    "junk": lambda index: b"\xa5" * len(index),
    "header cut": lambda index: index[:40],
    "only the header": lambda index: index[:64],
    "cut": lambda index: index[:-3],
    "cut at an entry": lambda index: index[:-40],
    "lengthened": lambda index: index + bytes(40),
    "header flipped": lambda index: flip(index, 21),
    "first byte flipped": lambda index: flip(index, 64, 5),
    "middle flipped": lambda index: flip(index, (64 + len(index)) // 2),
    "last byte flipped": lambda index: flip(index, -1),
    "hole of zeros": hole(64, 32),
    "newer format": newer_header,
}

DERIVED = [segment(ACTIVE, "offsets")] + [
    segment(first, suffix) for first in (SEALED[0], LAST) for suffix in ("offsets", "streams", "types", "ids")
]


# A writer rebuilds what it needs, and of the segment that was sealed last what is seen to
# be broken without being read.
REBUILT = [path for path in DERIVED if f"{SEALED[0]:020d}" not in path]
DAMAGED_PAGES = {"first byte flipped", "middle flipped", "last byte flipped", "hole of zeros"}


@pytest.mark.parametrize("path", DERIVED, ids=lambda path: path[-12:])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_index_is_bypassed_by_readers_and_mended_by_writers(root: str, path: str, name: str) -> None:
    files, known = place(root, path, BROKEN[name])
    with open_store(f"{root}/{STORE}") as reader:
        check_reads(reader, known)
    assert read_files(root) == files, "a reader wrote"
    check_recovery(f"{root}/{STORE}", known)
    if path in REBUILT and name not in DAMAGED_PAGES:
        sound = sound_store()[0].files[path]
        assert read_files(root)[path][: len(sound)] == sound


@pytest.mark.parametrize("suffix", ["offsets", "streams", "types", "ids"])
def test_an_index_of_another_segment_is_not_believed(root: str, suffix: str) -> None:
    foreign = sound_store()[0].files[segment(5, suffix)]
    files, known = place(root, segment(LAST, suffix), lambda _: foreign)
    with open_store(f"{root}/{STORE}") as reader:
        check_reads(reader, known)
    assert read_files(root) == files
    check_recovery(f"{root}/{STORE}", known)


def test_every_index_may_be_gone_at_once(root: str) -> None:
    state, known = sound_store()
    for path in [path for path in state.files if path.endswith((".offsets", ".streams", ".types", ".ids"))]:
        del state.files[path]
    del state.files[DURABLE]
    materialise(state, root)
    with open_store(f"{root}/{STORE}") as reader:
        check_reads(reader, known)
    assert read_files(root) == state.files
    check_recovery(f"{root}/{STORE}", known)


# --- marks and manifest


MARKS: dict[str, Damage] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "zeros": lambda _: bytes(4 * MARK_BYTES),
    "junk": lambda _: b"\xa5" * 99,
    "cut": lambda marks: marks[:MARK_BYTES],
    "written flipped": lambda marks: flip(marks, 9),
    "durable flipped": lambda marks: flip(marks, MARK_AT[DURABLE_MAGIC] + 9),
    "durable of another segment": lambda marks: with_mark(marks, DURABLE_MAGIC, Mark(99, 1 << 20)),
    "durable behind": lambda marks: with_mark(marks, DURABLE_MAGIC, Mark(tag_in(marks), 64)),
    "written of another segment": lambda marks: with_mark(marks, WRITTEN_MAGIC, Mark(99, 64)),
    "written behind": lambda marks: with_mark(marks, WRITTEN_MAGIC, Mark(tag_in(marks), 64)),
    "written ahead": lambda marks: with_mark(marks, WRITTEN_MAGIC, Mark(tag_in(marks), 1 << 20, 999, 1)),
    "acknowledged ahead": lambda marks: with_mark(marks, ACKNOWLEDGED_MAGIC, Mark(tag_in(marks), 1 << 20)),
    "suspect": lambda marks: with_mark(marks, SUSPECT_MAGIC, Mark(tag_in(marks), 64)),
    "suspect of another segment": lambda marks: with_mark(marks, SUSPECT_MAGIC, Mark(99, 64)),
    "suspect flipped": lambda marks: flip(marks, MARK_AT[SUSPECT_MAGIC] + 10),
}


def tag_in(marks: bytes) -> int:
    at = MARK_AT[DURABLE_MAGIC] + 4
    return int.from_bytes(marks[at : at + 4], "little")


def with_mark(marks: bytes, magic: bytes, mark: Mark) -> bytes:
    return marks[: MARK_AT[magic]] + encode_mark(magic, mark) + marks[MARK_AT[magic] + MARK_BYTES :]


@pytest.mark.parametrize("damage", MARKS.values(), ids=MARKS.keys())
def test_lost_or_late_marks_only_say_less(root: str, damage: Damage) -> None:
    files, known = place(root, DURABLE, damage)
    with open_store(f"{root}/{STORE}") as reader:
        check_reads(reader, known)
    assert read_files(root) == files
    check_recovery(f"{root}/{STORE}", known)


MANIFESTS: dict[str, tuple[Damage, type[EvlogError]]] = {
    "missing": (lambda _: None, StoreNotFound),
    "empty": (lambda _: b"", CorruptionError),
    "zeros": (lambda manifest: bytes(len(manifest)), CorruptionError),
    "cut": (lambda manifest: manifest[:-20], CorruptionError),
    "flipped": (lambda manifest: flip(manifest, 40), CorruptionError),
    "flipped in its CRC": (lambda manifest: flip(manifest, -5), CorruptionError),
    "lengthened": (lambda manifest: manifest + b"\n", CorruptionError),
    "overwritten": (lambda _: b'{"name":"web app","icons":[]}', CorruptionError),
    "newer": (newer_manifest, UnsupportedFormat),
}


@pytest.mark.parametrize(("damage", "expected"), MANIFESTS.values(), ids=MANIFESTS.keys())
@pytest.mark.parametrize("create", [False, True], ids=["", "create"])
def test_a_store_without_a_sound_manifest_is_refused_and_left_alone(
    root: str, damage: Damage, expected: type[EvlogError], create: bool
) -> None:
    files, _ = place(root, MANIFEST, damage)
    if create and MANIFEST not in files:
        expected = CorruptionError  # it was a store, and must not be created again
    with pytest.raises(expected):
        open_store(f"{root}/{STORE}", create=create)
    assert read_files(root) == files


@pytest.mark.parametrize("first_position", [SEALED[0], ACTIVE], ids=["sealed", "active"])
def test_a_log_of_a_newer_format_is_unsupported_not_corrupt(root: str, first_position: int) -> None:
    files, _ = place(root, segment(first_position, "log"), newer_header)
    with pytest.raises(UnsupportedFormat) as caught, open_store(f"{root}/{STORE}") as store:
        list(store.read_all())
    assert (caught.value.found, caught.value.supported) == (2, 1)
    with pytest.raises(UnsupportedFormat), open_store(f"{root}/{STORE}") as store:
        store.append_many(sound_store()[1].batches[0].appends)
    assert read_files(root) == files
