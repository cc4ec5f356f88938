"""Bits of each byte of every file of a store, flipped: nothing altered is ever returned, nothing hidden.

Two bits of each byte are flipped, other ones from byte to byte; with EVLOG_TEST_STRIDE=1 all eight. Of the
zeros in the filter's tables, which are half of all bytes, one in eight is flipped.

Every read returns what it returned before, or a part of that from its beginning and then an error of damage.
Damage of derived data is not even an error. Nothing acknowledged is cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from evlog import AppendResult, NewEvent
from evlog.errors import CorruptionError, EvlogError, NotAStore, UnsupportedFormat
from evlog.store import EventStore
from tests.crash import explore, recordings
from tests.crash.check import frame_offsets, materialise, open_store
from tests.crash.damage import DIRECTORIES, MANIFEST, STORE, Files, flip, read_files
from tests.crash.explore import Outcome
from tests.crash.history import event
from tests.crash.states import State
from tests.support.helpers import compress_all

_DAMAGE = (CorruptionError, UnsupportedFormat, NotAStore)
_SHARES = 6
_BITS = range(0, 8, min(8, explore.step_of(4)))
_TABLES_BYTES = 4 * 256 * 2  # of types, streams, ids and tags; 256 slots are the fewest

Question = Callable[[EventStore], Iterable[Any]]
Answers = dict[str, tuple[Question, list[Any]]]


def retried(store: EventStore) -> Sequence[AppendResult]:
    """Append events again that the store has; return the results."""
    return [store.append(stream, [event(n)]) for n, stream in enumerate(("a", "b", "a", "b"))]


QUESTIONS: dict[str, Question] = {
    "read_all": lambda store: store.read_all(),
    "stream a": lambda store: store.read("a"),
    "stream b": lambda store: store.read("b", reverse=True),
    "version of a": lambda store: [store.stream_version("a")],
    "head": lambda store: [store.head],
}
MORE_QUESTIONS: dict[str, Question] = {
    "read_all backwards": lambda store: store.read_all(reverse=True),
    "from the middle": lambda store: store.read_all(after=1, to=3),
    "version of b": lambda store: [store.stream_version("b")],
    "types": lambda store: store.read_all(types={"Type1"}),
    "streams": lambda store: store.streams(),
    "info": lambda store: [store.info().events],
}


def small_store(*, compress: bool = False) -> Files:
    """Return a store of two sealed and two active events, of two streams, with some preallocated zeros.

    Args:
        compress: the sealed ones are in a compressed log of a few blocks.
    """
    with recordings.scratch() as root:
        os.mkdir(f"{root}/above")
        with open_store(f"{root}/{STORE}", create=True, segment_events=2, segment_bytes=400) as store:
            for number in range(4):
                store.append("ab"[number % 2], [event(number)])
            if compress:
                with pytest.MonkeyPatch.context() as patch:
                    compress_all(patch, 100)
                    assert store.compact(compress=True).segments_compressed == 1
        return read_files(root)


def flip_bits(files: Files, names: Sequence[str], share: int) -> Outcome:
    """Flip bits of each byte in this share of the files; with one of them ask every question."""
    failures: list[str] = []
    digests: set[bytes] = set()
    with recordings.scratch() as root:
        path = f"{root}/{STORE}"
        materialise(State(files, DIRECTORIES), root)
        with open_store(path) as store:
            few: Answers = {name: (ask, list(ask(store))) for name, ask in QUESTIONS.items()}
            more: Answers = {name: (ask, list(ask(store))) for name, ask in MORE_QUESTIONS.items()}
        for name, at in places_of(files, names)[share::_SHARES]:
            for bit in ((at + place) % 8 for place in _BITS):
                damaged = flip(files[name], at, bit)
                _overwrite(f"{root}/{name}", damaged)
                answers = few | more if bit == at % 8 else few
                fatal = _may_fail(files, name, at)
                failures += [f"{name} byte {at} bit {bit}: {wrong}" for wrong in _wrong(path, answers, fatal)]
                digests.add(b"%s %d %d" % (name.encode(), at, bit))
            failures += [f"{name} byte {at}: {wrong}" for wrong in write_to(files, name, at)]
            _overwrite(f"{root}/{name}", files[name])
    return Outcome(digests, failures)


def places_of(files: Files, names: Sequence[str]) -> list[tuple[str, int]]:
    """Return the bytes to flip: a zero in the filter's tables says the same as any other one there."""
    step = explore.step_of(8)
    return [
        (name, at)
        for name in names
        for at, byte in enumerate(files[name])
        if byte or not name.endswith("/filter") or at < len(files[name]) - _TABLES_BYTES or at % step == 0
    ]


def _overwrite(path: str, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)


def _wrong(path: str, answers: Answers, fatal: bool) -> list[str]:
    """Return the questions that get another answer than before, although no damage is reported."""
    try:
        store = open_store(path)
    except _DAMAGE as error:
        return [] if fatal else [f"open: {error!r}"]
    wrong = []
    with store:
        for question, (ask, answer) in answers.items():
            said: list[Any] = []
            try:
                said.extend(ask(store))
                if len(said) != len(answer):
                    wrong.append(f"{question} says {len(said)} things, not {len(answer)}")
            except _DAMAGE as error:
                if not fatal:
                    wrong.append(f"{question}: {error!r}")
            except Exception as error:  # noqa: BLE001 - anything else is a finding
                wrong.append(f"{question}: {error!r}")
            if said != answer[: len(said)]:
                wrong.append(f"{question} says something else")
    return wrong


def _may_fail(files: Files, name: str, at: int) -> bool:
    """Return whether the byte is in the manifest or a frame of a log: all else is derived."""
    return name.endswith((MANIFEST, ".log.zst")) or (
        name.endswith(".log") and at < len(frames_in(files[name]))
    )


def frames_in(log: bytes) -> bytes:
    """Return a log without the preallocated zeros after its last frame."""
    return log[: frame_offsets(log)[-1]]


def write_to(files: Files, name: str, at: int) -> list[str]:
    """Retry and append on the damaged store; return what is wrong: a changed answer, or a cut file."""
    damaged = files | {name: flip(files[name], at, at % 8)}
    with recordings.scratch() as root:
        materialise(State(damaged, DIRECTORIES), root)
        error = _append(f"{root}/{STORE}", fatal=_may_fail(files, name, at))
        after = read_files(root)
    wrong = [] if error is None else [error]
    for path, content in files.items():
        kept = damaged[path][: len(frames_in(content))] if path.endswith(".log") else b""
        if path.endswith(".log.zst"):
            kept = damaged[path]
        if not after[path].startswith(kept):
            wrong.append(f"{path} was cut or changed: {content!r}")
    return wrong


def _append(path: str, *, fatal: bool) -> str | None:
    try:
        with open_store(path) as store:
            results = retried(store)
            if not all(result.duplicate for result in results):
                return "a retry was written again"
            if [result.first_position for result in results] != [1, 2, 3, 4]:
                return "a retry has another position"
            result = store.append("a", [NewEvent("New")])
            if (result.first_position, result.first_version) != (5, 3):
                return f"the next append is {result}"
    except _DAMAGE as error:
        return None if fatal else repr(error)
    except EvlogError as error:
        return repr(error)
    return None


@pytest.mark.parametrize("compress", [False, True])
def test_no_flipped_bit_is_ever_returned_as_data_or_hides_an_event(compress: bool) -> None:
    files = small_store(compress=compress)
    assert any(log != frames_in(log) for name, log in files.items() if name.endswith(".log"))
    names = sorted(name for name in files if not compress or name.endswith(".log.zst"))
    outcome = explore.run([(flip_bits, (files, names, share)) for share in range(_SHARES)])
    if outcome.failures:
        count = len(outcome.failures)
        pytest.fail("\n".join([f"{count} wrong:", *outcome.failures[:20]]), pytrace=False)
    assert len(outcome.digests) == len(_BITS) * len(places_of(files, names))
