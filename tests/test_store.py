"""EventStore as a whole: closing, threads, forks, several handles, and hashes that collide."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import random
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pydantic
import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import StoreClosed, WrongExpectedVersion
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.log.parts import SealedParts
from evlog.model.encoding import encode_events
from evlog.testing.base import in_threads
from tests.support.helpers import engine_of, fill, new, number_id, numbers, open_files, small_store
from tests.support.programs import run_python

# --- closing


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be seen here")
def test_store_is_closed_at_the_end_of_its_block_and_its_files_with_it(memory_path: Path) -> None:
    """At once: a file system is unmounted only once nothing waits for the garbage collector."""
    path = memory_path / "store"
    gc.disable()
    try:
        with small_store(path) as store:
            fill(store, 30)
            assert len(list(store.read_all())) == 30
            assert len(list(store.read("s-0"))) == 10
            assert not store.append("s-0", [new()]).duplicate
            assert open_files_below(path)
        with pytest.raises(StoreClosed):
            store.head  # noqa: B018 - asked for its error
        assert open_files_below(path) == []
    finally:
        gc.enable()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be seen here")
@pytest.mark.parametrize(
    "use",
    [
        lambda store, _: store.verify(),
        lambda store, _: store.verify(quick=True),
        lambda store, _: store.verify(against=f"5:{'0' * 64}"),
        lambda store, _: evlog.repair_store(store.path),
        lambda store, out: evlog.salvage_store(store.path, out),
        lambda store, out: [evlog.backup_store(store.path, out) for _ in range(2)],
        evlog.mirror,
        lambda store, _: store.redact(3, reason="asked for"),
        lambda store, _: store.compact(),
        lambda store, _: (store.streams(), store.info()),
        lambda store, _: list(store.subscribe("name", after=0, follow=False)),
        lambda store, _: store.state("s-0", lambda _, event: event.json()),
    ],
)
def test_what_a_store_did_leaves_no_file_open(
    memory_path: Path, use: Callable[[EventStore, Path], object]
) -> None:
    """Else the space of files that a compaction has removed becomes free late."""
    path = memory_path / "store"
    with small_store(path) as store:
        fill(store, 30)
        store.set_retention("s-1", max_count=1)
        store.redact(2, reason="asked for")
        store.compact()
        store.redact(6, reason="asked for")
    gc.collect()
    gc.disable()
    try:
        with evlog.open(path) as store:
            use(store, memory_path / "out")
        assert open_files_below(memory_path) == []
    finally:
        gc.enable()


def open_files_below(path: Path) -> list[str]:
    """Return the files in a directory that this process has open or mapped."""
    mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return open_files(f"{path}/") + [name for name in mapped if name.startswith(f"{path}/")]


def test_path_may_be_a_path_object_or_relative(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with evlog.open(memory_path / "store", create=True) as store:
        store.append("s", [new()])
        assert store.path == str(memory_path / "store")
        assert store.path in repr(store)
    monkeypatch.chdir(memory_path)
    with evlog.open("store") as store:
        assert store.head == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.append("s", [new()]),
        lambda store: list(store.read_all()),
        lambda store: store.info(),
        lambda store: store.compact(),
        lambda store: list(store.subscribe(idle=0)),
        lambda store: list(store.subscribe("mail", idle=0)),
        lambda store: evlog.open(store.path).close(),
    ],
)
# What is collected so deep, also of other tests, has no room for its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_too_deep_a_recursion_of_the_caller_is_not_damage(
    store: EventStore, use: Callable[[EventStore], object]
) -> None:
    def deep(levels: int) -> object:
        return use(store) if levels == 0 else deep(levels - 1)

    fill(store, 10)
    use(store)
    levels = sys.getrecursionlimit() - len(inspect.stack(0))
    refused = 0
    for fewer in range(60):
        try:
            deep(levels - fewer)
        except RecursionError:
            refused += 1
    assert refused
    assert store.verify().ok


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_store_that_is_sent_elsewhere_says_to_open_it_there(
    store: EventStore, send: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match=r"call evlog.open\(store.path\) there"):
        send(store)


# --- conflicts


def test_a_conflict_names_the_key_that_its_id_was_made_from(store: EventStore) -> None:
    first = NewEvent("T", 1, idempotency_key="payment-7")
    store.append("s", [first])
    other = [new(), NewEvent("T", 2, idempotency_key="payment-7")]
    calls: list[Callable[[], object]] = [
        lambda: store.append("s", other[1:]),
        lambda: store.append_many([("s", other)]),
        lambda: store.append_encoded(["s", "s"], encode_events(other), skip_known=True),
    ]
    for call in calls:
        with pytest.raises(evlog.IdConflict, match="idempotency key 'payment-7'") as caught:
            call()
        assert caught.value.key == "payment-7"
    with pytest.raises(evlog.IdConflict) as caught:
        store.append("s", [NewEvent("T", 2, id=first.id)])
    assert caught.value.key is None


# --- threads


def test_many_threads_append_and_read_through_one_store(store: EventStore) -> None:
    threads, share = 16, 20
    start = threading.Barrier(threads)

    def work(me: int) -> None:
        start.wait()
        head = 0
        for number in range(share):
            if me % 4:
                store.append(f"own-{me}", [new(number, id=number_id(me * 1000 + number))], expected=number)
            else:
                _retry(store, "shared", new(number))
            positions = [event.position for event in store.read_all()]
            assert positions == list(range(1, len(positions) + 1))
            assert len(positions) >= head
            head = len(positions)
            versions = [event.version for event in store.read("shared")]
            assert versions == list(range(1, len(versions) + 1))

    in_threads(partial(work, me) for me in range(threads))
    assert store.head == threads * share
    assert store.stream_version("shared") == threads // 4 * share
    for me in range(threads):
        if me % 4:
            assert numbers(store.read(f"own-{me}")) == list(range(share))
    with evlog.open(store.path) as other:
        assert list(other.read_all()) == list(store.read_all())
        assert list(other.streams()) == list(store.streams())


def _retry(store: EventStore, stream: str, event: NewEvent) -> None:
    while True:
        try:
            store.append(stream, [event], expected=store.stream_version(stream))
            return
        except WrongExpectedVersion:
            pass


class Interrupting(Disk):
    """Has another thread look at the store after every single write."""

    def __init__(self) -> None:
        self.look: Callable[[], object] = list
        self.seen: list[object] = []
        self.threads: list[threading.Thread] = []

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        super().write_at(file, data, offset)
        thread = threading.Thread(target=self._note)
        self.threads.append(thread)
        thread.start()
        thread.join(0.05)  # it may have to wait until the append is done

    def _note(self) -> None:
        try:
            self.seen.append(self.look())
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            self.seen.append(error)


def test_thread_that_reads_between_any_two_writes_sees_every_event_once(memory_path: Path) -> None:
    disk = Interrupting()
    with small_store(memory_path / "store", segment_events=3, disk=disk) as store:
        disk.look = lambda: numbers(store.read_all())
        fill(store, 8)
        for thread in disk.threads:
            thread.join()
        assert numbers(store.read_all()) == list(range(8))
        assert [stream.events for stream in store.streams()] == [3, 3, 2]
        for seen in disk.seen:
            assert isinstance(seen, list)
            assert seen == list(range(len(seen)))


def test_thread_that_looks_while_another_takes_in_a_roll_counts_nothing_twice(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 8)
    with evlog.open(store.path) as reader:
        assert reader.info().events == 8
        store.append("s-2", [new(8, "T0")])  # rolls
        log = engine_of(reader)._opened()
        real = SealedParts.__init__
        counts: list[Any] = []

        def look_meanwhile(sealed: SealedParts, *arguments: Any) -> Any:
            counts.append((log.head, sum(part.count for part in log.parts())))
            return real(sealed, *arguments)

        monkeypatch.setattr(SealedParts, "__init__", look_meanwhile)
        assert reader.info().events == 9
        assert counts == [(8, 8)]


# --- several handles and processes


def test_handles_on_one_directory_see_each_others_events(store: EventStore) -> None:
    others = [evlog.open(store.path) for _ in range(3)]
    handles = [store, *others]
    for number in range(60):
        handles[number % 4].append(f"s-{number % 3}", [new(number)], expected=number // 3)
        assert [handle.head for handle in handles] == [number + 1] * 4
    assert [numbers(handle.read_all()) for handle in handles] == [list(range(60))] * 4
    for handle in others:
        handle.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be counted here")
def test_store_of_many_segments_has_few_files_open(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 500)
    with small_store(memory_path / "store", segment_events=1, sync="none") as store:
        fill(store, 120)
        assert store.info().segments == 120
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        with evlog.open(store.path) as other:
            assert numbers(other.read_all()) == list(range(120))
            assert len(list(other.read("s-0"))) == 40
            assert len(list(other.streams())) == 3
            assert other.append("s-0", [new(0, "T0", id=number_id(0))]).duplicate
            assert len(os.listdir("/proc/self/fd")) < before + 250


FORKING = """
import os, sys
import evlog
store = evlog.open(sys.argv[1], create=True, segment_events=4)
append = lambda stream: store.append(stream, [evlog.NewEvent("T")])
append("parent")
under_way = store.read_all()
next(under_way)
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            for _ in range(5):
                append(f"child-{child}")
            assert store.stream_version(f"child-{child}") == 5
            assert len(list(store.read("parent"))) >= 1
            assert list(under_way) == []
            store.close()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(pid)
for _ in range(5):
    append("parent")
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
append("parent")
assert store.head == 22, store.head
assert sorted((s.stream, s.events) for s in store.streams()) == [
    ("child-0", 5), ("child-1", 5), ("child-2", 5), ("parent", 7)]
assert [e.position for e in store.read_all()] == list(range(1, 23))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_parent_and_forked_children_may_go_on_with_one_store(memory_path: Path) -> None:
    run_python("-c", FORKING, str(memory_path / "store"))


def test_every_public_name_is_there_and_few_are_imported_at_once() -> None:
    assert {name for name in evlog.__all__ if getattr(evlog, name) is None} == set()
    assert dir(evlog) == sorted(evlog.__all__)
    with pytest.raises(AttributeError, match="'Filter'"):
        evlog.Filter  # noqa: B018 - asked for its error
    late = ["evlog.subscriptions", "evlog.engine", "evlog.files", "evlog.model.reports", "dataclasses"]
    script = "import sys, evlog; print([name for name in sys.argv[1:] if name in sys.modules])"
    assert run_python("-c", script, *late).stdout == "[]\n"


def test_an_append_like_the_one_before_imports_nothing(memory_path: Path) -> None:
    """An import statement in a function takes a microsecond each time, of 35 for an append."""
    with small_store(memory_path / "store") as store:

        def append() -> None:
            none, version = evlog.IfNone(evlog.Query(tags=["a:2"])), evlog.IfVersion("other", 0)
            store.append("a", [new(tags=["a:1"], metadata={"user": "ann"})], conditions=none)
            store.append_many([("a", [new(tags=["a:1"])]), ("b", [new()])], conditions=[none, version])

        append()
        with mock.patch("builtins.__import__", side_effect=AssertionError("it imports something")):
            append()


def test_events_can_be_pickled(store: EventStore) -> None:
    fill(store, 2)
    events = list(store.read_all())
    assert pickle.loads(pickle.dumps(events)) == events


def test_results_may_be_in_models_of_pydantic(store: EventStore) -> None:
    results = store.append("a", [evlog.NewEvent("T")]), next(store.streams()), store.retention("a")
    for result in results:
        kind = pydantic.TypeAdapter(type(result))
        assert kind.validate_python(result) == kind.validate_python(tuple(result)) == result
    assert evlog.StreamInfo._field_defaults == {"retention": None}


def test_a_result_can_be_changed_as_copy_replace_does_it(store: EventStore) -> None:
    result: Any = store.info()
    assert result.__replace__(events=7) == result._replace(events=7) != result


# --- colliding hashes


def collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all streams eight hashes and all ids sixteen folds, wherever they are looked up."""
    from evlog.files.format.hashes import hash_ids, hash_stream, hash_type

    few: dict[str, Callable[..., Any]] = {
        "hash_stream": lambda stream: hash_stream(stream) & 7,
        "hash_ids": lambda ids: [fold & 15 for fold in hash_ids(ids)],
        "hash_type": lambda name: hash_type(name) & 1,
    }
    patched = 0
    for name, module in list(sys.modules.items()):
        if name.startswith("evlog."):
            for function, replacement in few.items():
                if hasattr(module, function):
                    monkeypatch.setattr(module, function, replacement)
                    patched += 1
    assert patched > 5


def test_colliding_hashes_change_nothing(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collide(monkeypatch)
    dice = random.Random(7)
    plain: list[tuple[str, int, str, int]] = []  # stream, version, type, number
    with small_store(memory_path / "store", segment_events=20, sync="none") as store:
        for number in range(300):
            stream, type = f"s-{dice.randrange(40)}", f"T{dice.randrange(6)}"
            version = sum(1 for row in plain if row[0] == stream)
            handle = store if number % 10 else evlog.open(store.path)
            result = handle.append(stream, [new(number, type, id=number_id(number))], expected=version)
            plain.append((stream, version + 1, type, number))
            assert result[1:6] == (number + 1, number + 1, version + 1, version + 1, False)
            old = plain[dice.randrange(len(plain))]
            again = store.append(old[0], [new(old[3], old[2], id=number_id(old[3]))])
            assert (again.duplicate, again.first_position) == (True, old[3] + 1)
            if handle is not store:
                handle.close()
        for subject in (store, small_store(store.path)):
            for stream in {row[0] for row in plain}:
                mine = [row for row in plain if row[0] == stream]
                assert subject.stream_version(stream) == len(mine)
                assert numbers(subject.read(stream)) == [row[3] for row in mine]
                assert numbers(subject.read(stream, reverse=True)) == [row[3] for row in mine][::-1]
                assert numbers(subject.read(stream, 2, 4)) == [row[3] for row in mine[1:4]]
                assert (
                    numbers(subject.read(stream, 2, 4, reverse=True)) == [row[3] for row in mine[1:4]][::-1]
                )
            for type in ("T0", "T3"):
                assert numbers(subject.read_all(types=[type])) == [row[3] for row in plain if row[2] == type]
            found = {info.stream: info.events for info in subject.streams()}
            assert found == {
                name: sum(1 for row in plain if row[0] == name) for name in {r[0] for r in plain}
            }
            assert subject.info().streams == len(found)


def test_results_of_an_append_to_many_streams_are_read_like_a_list(memory_path: Path) -> None:
    with small_store(memory_path / "store") as store:
        appends = [(f"s-{number % 3}", [new(number)] * (number % 2 + 1)) for number in range(5)]
        results = store.append_many(appends)
        assert len(results) == 5
        expected = [("s-0", 1, 1, 1), ("s-1", 2, 3, 1), ("s-2", 4, 4, 1), ("s-0", 5, 6, 2), ("s-1", 7, 7, 3)]
        found = [(r.stream, r.first_position, r.last_position, r.first_version) for r in results]
        assert found == expected
        assert [results[at] for at in range(-5, 5)] == [*results, *results]
        assert results[1:3] == [results[1], results[2]]
        assert results == list(results)
        assert results != list(results)[1:]
        assert repr(results) == repr(list(results))
        assert [len(result.ids) for result in results] == [1, 2, 1, 2, 1]
        with pytest.raises(IndexError):
            results[5]


# --- wrong arguments


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda store: list(store.read("s", 1.5)), "invalid from_version 1.5; use a whole number, 0 or more"),
        (lambda store: list(store.read("s", limit="1")), "invalid limit '1'; use a whole number, 0 or more"),
        (lambda store: list(store.read_all("1")), "invalid after '1'; use a whole number, 0 or more"),
        (lambda store: list(store.read_all(category=5)), "category is 5; give a text"),
        (lambda store: list(store.read_all(since="today")), "'today' is not a datetime; give one"),
        (lambda store: store.streams(5), "category is 5; give a text"),
        (lambda store: store.streams(prefix=5), "prefix is 5; give a text"),
        (lambda store: store.verify(against=5), "against is 5; give a text"),
        (lambda store: store.transact("s", lambda _: new()), "events must be a list of NewEvent; put the"),
        (lambda store: store.transact("s", lambda _: [("t", new())]), "events must be a list of NewEvent"),
    ],
)
def test_an_argument_of_a_wrong_type_is_not_taken_for_damage(
    tmp_path: Path, use: Callable[[EventStore], object], message: str
) -> None:
    with small_store(tmp_path / "store") as store:
        fill(store, 3)
        with pytest.raises(evlog.InvalidArgument) as refused:
            use(store)
        assert str(refused.value).startswith(message)


@pytest.mark.parametrize("wrong", [("s",), ("s", [new()], 0, 1), 5, None])
def test_an_append_is_a_stream_its_events_and_a_version(store: EventStore, wrong: Any) -> None:
    with pytest.raises(evlog.InvalidArgument, match="invalid append"):
        store.append_many([wrong])
    assert store.head == 0


@pytest.mark.parametrize("method", ["get", "trace"])
def test_what_is_neither_an_id_nor_a_position_is_refused(store: EventStore, method: str) -> None:
    with pytest.raises(evlog.InvalidArgument, match="invalid event 'o-1'; give its id or its position"):
        getattr(store, method)("o-1")
