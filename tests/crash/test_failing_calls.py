"""Every disk call fails once, in every way that a disk fails: which error is raised, and what is stored."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from evlog.errors import EvlogError, StoreFull, StoreIOError
from evlog.store import EventStore
from tests.crash import faults, recordings
from tests.crash.check import check_no_torn_tail, check_reads, check_recovery, open_store
from tests.crash.disk import World
from tests.crash.faults import Fault
from tests.crash.history import History, Knowledge, all_known, event

_MOST_CALLS = 500  # a scenario that never runs to its end has no end

# What makes a writer refuse until it is opened again: after these, it is unknown what the disk holds.
_UNKNOWN_OUTCOME = frozenset({"pwrite", "fdatasync", "fsync"})

_CASES = [
    ("pwrite", errno.EIO, False, 1),
    ("pwrite", errno.ENOSPC, False, 1),
    ("pwrite", errno.ENOSPC, True, 1),
    ("pwrite", errno.EDQUOT, False, 4),
    ("pwrite", errno.EFBIG, True, 4),
    ("fdatasync", errno.EIO, False, 1),
    ("fdatasync", errno.ENOSPC, False, 1),
    ("fsync", errno.EIO, False, 1),
    ("fsync", errno.EDQUOT, False, 2),
    ("open", errno.ENOSPC, False, 1),
    ("open", errno.EIO, False, 2),
    ("replace", errno.EIO, False, 1),
    ("replace", errno.ENOSPC, False, 1),
]


@pytest.fixture
def root() -> Iterator[str]:
    with recordings.scratch() as directory:
        os.mkdir(f"{directory}/above")
        yield directory


def check_error(error: EvlogError, fault: Fault) -> None:
    """Check that a full disk is StoreFull, except for a sync: after that it is unknown what is stored."""
    full = fault.code in faults.FULL and fault.kind not in {"fdatasync", "fsync"}
    assert type(error) is (StoreFull if full else StoreIOError)


@pytest.mark.parametrize(
    ("kind", "code", "short", "stride"),
    _CASES,
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) and value > 4 else str(value),
)
def test_a_failed_call_is_reported_and_loses_nothing(
    kind: str, code: int, short: bool, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = 0
    for number in range(1, _MOST_CALLS, stride):
        fault = Fault(kind, number, code, short=short)
        with recordings.scratch() as directory, monkeypatch.context() as patch:
            faults.install(fault, patch)
            append_over_a_roll(f"{directory}/above/store", fault)
        if not fault.fired:
            break
        fired += 1
    else:
        raise AssertionError("the scenario never ran to its end")
    assert fired


def append_over_a_roll(path: str, fault: Fault) -> None:
    """Append beside another writer and a reader, which stay right whatever fails."""
    history = History(World(os.path.dirname(os.path.dirname(path))))
    store = open_store(path, create=True)
    with open_store(path) as reader, open_store(path) as other:
        history.send(store, [("first", [event(900)])])
        history.send(other, [("first", [event(901)])])
        check_reads(reader, all_known(history.batches))
        fault.arm()
        for appends in recordings.sample_appends(0)[:5]:
            number = history.sent(appends)
            try:
                results = store.append_many(appends)
            except (StoreFull, StoreIOError) as error:
                check_error(error, fault)
                if isinstance(error, StoreFull):
                    check_no_torn_tail(path)
                check_reads(reader, all_known(history.batches))
                fault.clear()
                store = after_failure(store, error, fault, history)
                results = store.append_many(appends)
            history.acked(number, results)
        fault.clear()
        check_reads(reader, all_known(history.batches))
        append_or_refuse(other, history, 902, refusal_allowed=True)
        store.close()
    check_recovery(path, all_known(history.batches))


def after_failure(store: EventStore, error: EvlogError, fault: Fault, history: History) -> EventStore:
    """Return the store to continue with: the same one after a full disk, a new one after a failed disk."""
    refusal_allowed = isinstance(error, StoreIOError)
    appended = append_or_refuse(store, history, 950, refusal_allowed=refusal_allowed)
    if appended:
        assert fault.kind not in _UNKNOWN_OUTCOME or not refusal_allowed, "it continues after a failed write"
        return store
    append_or_refuse(store, history, 951, refusal_allowed=True)
    store.close()
    return open_store(store.path)


def append_or_refuse(store: EventStore, history: History, number: int, *, refusal_allowed: bool) -> bool:
    """Append one event; return whether it was acknowledged. A refusal leaves nothing."""
    batch = history.sent([("more", [event(number)])])
    try:
        history.acked(batch, store.append_many(history.batches[batch].appends))
    except StoreIOError:
        assert refusal_allowed
        return False
    return True


@pytest.mark.parametrize("kind", ["makedirs", "open", "pwrite", "fdatasync", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_a_store_that_could_not_be_made_can_be_made_later(
    kind: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, _MOST_CALLS):
        fault = Fault(kind, number, code)
        with recordings.scratch() as directory, monkeypatch.context() as patch:
            faults.install(fault, patch)
            fault.arm()
            path = f"{directory}/above/store"
            try:
                open_store(path, create=True).close()
            except (StoreFull, StoreIOError) as error:
                check_error(error, fault)
            fault.clear()
            open_store(path, create=True).close()
            check_recovery(path, all_known([]))
        if not fault.fired:
            break
    else:
        raise AssertionError("it never came to an end")
    assert number > 1


def test_a_failed_read_is_an_error_and_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 0
    with recordings.scratch() as directory:
        path = f"{directory}/above/store"
        history = History(World(directory))
        with open_store(path, create=True) as store:
            for appends in recordings.sample_appends(0):
                history.send(store, appends)
        known = all_known(history.batches)
        for number in range(1, _MOST_CALLS):
            fault = Fault("pread", number, errno.EIO)
            with monkeypatch.context() as patch:
                faults.install(fault, patch)
                fault.arm()
                failures += not reads_or_fails(path, known)
            if not fault.fired:
                break
        else:
            raise AssertionError("it never came to an end")
        assert failures > 10
        check_recovery(path, known)


def reads_or_fails(path: str, known: Knowledge) -> bool:
    """Read everything and retry an append; return whether that worked at once, and not at the second try."""
    first = known.batches[0].appends
    try:
        with open_store(path) as store:
            check_reads(store, known)
            assert store.append_many(first)[0].duplicate
    except StoreIOError:
        with open_store(path) as store:
            check_reads(store, known)
            assert store.append_many(first)[0].duplicate
        return False
    return True


@pytest.mark.parametrize("second", [1, 120, 400], ids=["shorter", "equal", "longer"])
@pytest.mark.parametrize("failing", [2, 3], ids=["entries", "mark"])
def test_a_reader_of_an_append_that_was_cut_reads_the_next_one_right(
    root: str, failing: int, second: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{root}/above/store"
    with (
        open_store(path, create=True, segment_events=50) as store,
        open_store(path) as reader,
        open_store(path) as writer,
    ):
        writer.append("first", [event(0)])
        store.append("first", [event(1)])
        fault = Fault("pwrite", failing, errno.ENOSPC, before=lambda: seen(reader, writer))
        faults.install(fault, monkeypatch)
        fault.arm()
        try:
            store.append("cut", [event(2, {"x": "x" * 120})])
            heads = 3
        except StoreFull:
            heads = 2
        fault.clear()
        store.append("next", [event(3, {"x": "y" * second})])
        result = writer.append("next", [event(4)])
        assert (result.first_position, result.first_version) == (heads + 2, 2)
        events = list(reader.read_all())
        assert events == list(writer.read_all())
        assert [e.data for e in reader.read("next")][1:] == [b'{"n":4}']
        with open_store(path) as fresh:
            assert list(fresh.read_all()) == events
            assert len(events) == heads + 2


def seen(*stores: EventStore) -> None:
    """Have the stores take in what is there at this moment."""
    for store in stores:
        assert store.head >= 2
        list(store.read_all())


@pytest.mark.parametrize("cut", ["EIO", "ENOSPC"])
def test_a_cut_that_fails_after_a_full_disk_loses_nothing(
    root: str, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{root}/above/store"
    history = History(World(root))
    store = open_store(path, create=True)
    history.send(store, [("first", [event(0)])])
    full = Fault("pwrite", 1, errno.ENOSPC, short=True)
    broken = Fault("ftruncate", 1, getattr(errno, cut))
    faults.install(full, monkeypatch)
    monkeypatch.setattr(
        faults.FaultyOs, "ftruncate", lambda _, fd, length: fail_or(broken, os.ftruncate, fd, length)
    )
    full.arm()
    broken.arm()
    history.sent([("cut", [event(1)])])
    with pytest.raises((StoreFull, StoreIOError)):
        store.append_many(history.batches[1].appends)
    full.clear()
    broken.clear()
    append_or_refuse(store, history, 2, refusal_allowed=True)
    store.close()
    check_recovery(path, all_known(history.batches))


def fail_or(fault: Fault, call: object, *arguments: object) -> None:
    if fault.meet("ftruncate"):
        raise fault.error()
    call(*arguments)  # type: ignore[operator]
