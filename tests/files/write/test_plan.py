"""The expected version: every case, alone and together, in the active segment, sealed and reopened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import evlog
from evlog import ANY, NO_STREAM, STREAM_EXISTS, EventStore, IfNone, IfVersion, NewEvent, Query
from evlog.errors import (
    AppendTooLarge,
    ConditionFailed,
    InvalidArgument,
    WrongExpectedVersion,
)
from evlog.files.format.headers import KIND_STREAMS
from evlog.files.log.log import Log
from evlog.files.write.group_commit import Request
from evlog.files.write.plan import Planner
from evlog.model.appends import Append, AppendRequest, BatchResult
from evlog.model.encoding import encode_events
from evlog.model.history import HistoryPiece, Standing
from tests.support.helpers import content, engine_of, fill, new, small_store, writer_of

# existing versions of stream "s", expected, whether it is met
EXPECTATIONS: list[tuple[int, Any, bool]] = [
    (0, ANY, True), (1, ANY, True), (3, ANY, True),
    (0, NO_STREAM, True), (1, NO_STREAM, False), (3, NO_STREAM, False),
    (0, STREAM_EXISTS, False), (1, STREAM_EXISTS, True), (3, STREAM_EXISTS, True),
    (0, 1, False), (1, 1, True), (3, 1, False), (3, 3, True), (3, 4, False), (3, 2**40, False),
]  # fmt: skip


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("existing", "expected", "met"), EXPECTATIONS)
def test_expected_version(
    store: EventStore, existing: int, expected: Any, met: bool, sealed: bool, reopened: bool
) -> None:
    if existing:
        store.append("s", [new(number) for number in range(existing)])
    if sealed:
        fill(store, 20)
    subject = small_store(store.path) if reopened else store
    before = content(store)
    if met:
        assert subject.append("s", [new()], expected).first_version == existing + 1
        return
    with pytest.raises(WrongExpectedVersion) as caught:
        subject.append("s", [new()], expected)
    assert caught.value.attributes() == {"stream": "s", "expected": expected, "actual": existing}
    assert content(store) == before


MANY: list[tuple[list[tuple[str, int, Any]], tuple[str, Any, int] | None]] = [
    # appends (stream, number of events, expected) to a store where "a" is at 2; what is refused
    ([("a", 1, 2), ("b", 1, 0)], None),
    ([("a", 2, 2), ("a", 1, 4)], None),
    ([("a", 1, 2), ("b", 2, 0), ("a", 1, 3), ("b", 1, 2)], None),
    ([("b", 1, 0), ("b", 1, "exists")], None),
    ([("a", 1, "any"), ("a", 1, 3)], None),
    ([("b", 1, "any"), ("b", 1, 0)], ("b", 0, 1)),
    ([("a", 1, 2), ("a", 1, 2)], ("a", 2, 3)),
    ([("a", 1, 2), ("b", 1, "exists")], ("b", "exists", 0)),
    ([("b", 1, 0), ("a", 1, 1)], ("a", 1, 2)),
    ([("a", 1, 0), ("b", 1, 5)], ("a", 0, 2)),
    ([("b", 1, "exists"), ("b", 1, "any")], ("b", "exists", 0)),
]


@pytest.mark.parametrize(("appends", "refused"), MANY)
def test_expected_versions_of_one_append_are_checked_in_order_and_together(
    store: EventStore, appends: list[tuple[str, int, Any]], refused: tuple[str, Any, int] | None
) -> None:
    store.append("a", [new(), new()])
    before = content(store)
    batch = [(stream, [new()] * count, expected) for stream, count, expected in appends]
    if refused is None:
        store.append_many(batch)
        assert store.head == 2 + sum(count for _, count, _ in appends)
        return
    with pytest.raises(WrongExpectedVersion) as caught:
        store.append_many(batch)
    assert (caught.value.stream, caught.value.expected, caught.value.actual) == refused
    assert content(store) == before


def test_expectation_of_an_import_is_of_the_time_before_it(store: EventStore) -> None:
    events = encode_events([new(), new()])
    store.append_encoded(["a", "a"], events, expected={"a": 0, "other": 0})
    with pytest.raises(WrongExpectedVersion):
        store.append_encoded(["a", "a"], events, expected={"a": 1})
    with pytest.raises(WrongExpectedVersion):
        store.append_encoded(["a"], events[:1], expected={"other": "exists"})


@pytest.mark.parametrize(
    "expected", [-1, "none", "", None, 1.0, True, False, b"any", "1", [], float("nan")], ids=repr
)
def test_expected_version_of_another_form_is_refused(store: EventStore, expected: Any) -> None:
    with pytest.raises(InvalidArgument):
        store.append("a", [new()], expected)
    assert store.head == 0


def test_another_writers_events_count(store: EventStore) -> None:
    with evlog.open(store.path) as other:
        for version in range(0, 40, 2):
            store.append("s", [new()], expected=version)
            other.append("s", [new()], expected=version + 1)
            with pytest.raises(WrongExpectedVersion):
                store.append("s", [new()], expected=version + 1)
    assert [event.version for event in store.read("s")] == list(range(1, 41))


def test_of_two_names_with_one_hash_both_versions_are_remembered_and_both_are_forgotten(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.write.plan.hash_stream", lambda _name: 1)
    planner = Planner(engine_of(store)._opened())
    streams = ["a", "b"]  # neither is in the log, so a look-up finds version 0
    append = Append(streams, encode_events([new(), new()]))

    def plan() -> list[int]:
        plan = planner.plan_locked(append)
        planner.remember_locked(plan)
        assert list(plan.stream_hashes) == [1, 1]
        return plan.versions

    assert plan() == [1, 1]
    assert plan() == [2, 2]
    planner.forget_locked([2])
    assert plan() == [3, 3]
    planner.forget_locked([1])
    assert plan() == [1, 1]
    planner.forget_locked(None)
    assert plan() == [1, 1]


def test_versions_of_a_plan_that_is_not_written_are_given_again(store: EventStore) -> None:
    planner = Planner(engine_of(store)._opened())
    names = ["a", "b", "a"]
    append = Append(names, encode_events([new(), new(), new()]))
    store.append("b", [new()])
    for _ in range(3):
        assert planner.plan_locked(append).versions == [1, 2, 2]
    assert planner.plan_locked(Append(["a"], encode_events([new()]))).versions == [1]


def test_a_plan_that_is_not_written_uses_no_version_where_history_is_appended_next(
    store: EventStore, tmp_path: Path
) -> None:
    """What an engine does whose index is a mirror: it plans, and another writer of the log is faster."""
    store.append("other", [new(), new()])
    events = list(store.read_all())
    with evlog.open(tmp_path / "index", create=True) as index:
        assert index.engine.change_standing(Standing(), Standing(mirror_of=str(store.id)))
        plan = engine_of(index).plan
        index.engine.append_history(HistoryPiece(str(store.id), 0, 1, events[:1], [1]))
        assert plan(AppendRequest(["a"], encode_events([new()]))).versions == [1]
        index.engine.append_history(HistoryPiece(str(store.id), 1, 2, events[1:], [2]))
        assert plan(AppendRequest(["a", "other"], encode_events([new(), new()]))).versions == [1, 3]


@pytest.mark.parametrize("many", [False, True])
def test_a_frame_that_cannot_be_written_uses_no_version(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    names = [f"s-{number}" for number in range(20 if many else 1)]
    append_to(store, names)
    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.write.tail.MAX_BODY_BYTES", 10)
        with pytest.raises(AppendTooLarge):
            append_to(store, names * 2)
    assert append_to(store, names) == [2] * len(names)


def test_the_expected_versions_of_many_streams_are_looked_up_together(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"s-{number}" for number in range(20)]
    append_to(store, names)
    look_ups = []
    find_versions = Log.find_versions

    def counting(log: Log, streams: list[str], *rest: Any, **options: Any) -> list[int]:
        look_ups.append(len(streams))
        return find_versions(log, streams, *rest, **options)

    monkeypatch.setattr(Log, "find_versions", counting)
    with evlog.open(store.path) as other:
        appends = [(name, [new()], 1) for name in names] + [("s-3", [new()], 2), ("s-3", [new()], 3)]
        versions = IfVersion("s-3", 1), IfVersion("s-4", 1)  # they are about the log before this call
        other.append_many(appends, conditions=versions)
        with pytest.raises(WrongExpectedVersion):
            other.append_many([("s-5", [new()], 2), ("s-5", [new()], 2)])
    assert look_ups == [20]


@pytest.fixture
def large(memory_path: Path) -> Iterator[EventStore]:
    """A store whose first segment has room for all events of a test."""
    with evlog.open(memory_path / "large", create=True) as store:
        yield store


def append_to(store: EventStore, streams: list[str]) -> list[int]:
    return [result.first_version for result in store.append_many([(name, [new()]) for name in streams])]


def test_new_streams_are_looked_up_in_a_segment_only_if_others_wrote_to_it(large: EventStore) -> None:
    first, second, third, fourth = ([f"{letter}-{number}" for number in range(20)] for letter in "abcd")
    columns = engine_of(large)._opened().active.index
    assert append_to(large, first) == [1] * 20
    assert append_to(large, second) == [1] * 20
    assert KIND_STREAMS not in columns._lasts
    with evlog.open(large.path) as other:
        assert append_to(other, third) == [1] * 20
        assert append_to(large, third) == [2] * 20
        assert append_to(other, fourth[:1]) == [1]
        assert append_to(large, fourth) == [2] + [1] * 19


def test_nothing_is_looked_up_for_new_streams_of_a_new_store(
    large: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Log, "find_versions", lambda *_, **__: pytest.fail("looked up"))
    assert append_to(large, ["a", "b", "a"]) == [1, 1, 2]
    assert append_to(large, ["c", "b"]) == [1, 2]


def test_a_stream_that_another_writer_began_after_a_refused_append_is_looked_up(large: EventStore) -> None:
    names = [f"s-{number}" for number in range(20)]
    append_to(large, ["begin"])
    with pytest.raises(WrongExpectedVersion):
        large.append_many([*((name, [new()]) for name in names), ("s-0", [new()], 7)])
    with evlog.open(large.path) as other:
        assert append_to(other, names) == [1] * 20
    assert append_to(large, names) == [2] * 20


@pytest.mark.parametrize("rolls", [0, 1, 2])
def test_streams_of_sealed_segments_are_found_by_a_writer_that_began_the_next_one(
    store: EventStore, rolls: int
) -> None:
    names = [f"s-{number}" for number in range(20)]
    append_to(store, names)
    with small_store(store.path) as later:
        for _ in range(rolls):
            writer_of(later).seal()
            append_to(later, ["begin"])
        assert append_to(later, names) == [2] * 20


def test_versions_stay_right_when_there_are_more_streams_than_are_remembered(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.write.plan._MAX_REMEMBERED", 3)
    for turn in range(1, 4):
        for number in range(8):
            assert store.append(f"s-{number}", [new()]).first_version == turn
        results = store.append_many([(f"t-{number % 5}", [new()]) for number in range(15)])
        assert [result.first_version for result in results] == [
            3 * turn - 2 + number // 5 for number in range(15)
        ]
        assert len(writer_of(store)._planner._streams) <= 8


def test_streams_are_numbered_right_after_an_interrupt(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come between any two steps of a planner that notes a stream."""
    planner = writer_of(store)._planner

    class Interrupting(dict[int, int]):
        def setdefault(self, key: int, default: int = 0) -> int:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(planner._streams, "_owners", Interrupting())
        with pytest.raises(KeyboardInterrupt):
            store.append("a", [new()])
    assert store.append_many([("b", [new()]), ("a", [new()]), ("b", [new()])])[2].first_version == 2
    assert [store.append(name, [new()]).first_version for name in ("a", "b", "c")] == [2, 3, 1]


def test_a_name_that_hashes_unlike_its_text_is_the_same_stream(store: EventStore) -> None:
    class Name(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    name = Name("stream-a")
    store.append_many([("stream-a", [new()]), (name, [new()], 1), ("stream-a", [new()], 2)])
    store.append(name, [new()], 3)
    assert [event.version for event in store.read("stream-a")] == [1, 2, 3, 4]


def test_of_appends_in_one_frame_each_is_checked_against_those_before_it(store: EventStore) -> None:
    """What a leader does for two writers that wait, each for the same name."""
    writer = writer_of(store)

    def append(stream: str, tag: str, condition: IfNone) -> Request:
        event = encode_events([NewEvent("T", id=uuid4(), tags=[tag])])
        return Request(0, 1, stream, None, None, event, [condition])

    def together(other: Request, own: Request) -> tuple[tuple[int, int] | None, object]:
        """Append both; return where the events of the one are, and what the writer itself gets."""
        with writer._lock:
            writer._catch_up_locked()
            (place,), outcome = writer._append_all_locked([other], writer._joined([own]))
            return place, outcome

    first, second = together(append("a", "x", IfNone("tag=x")), append("b", "x", IfNone("tag=x")))
    assert isinstance(second, ConditionFailed)
    assert first == (1, 1)
    assert second.position == store.head == 1
    late, early = together(append("a", "y", IfNone("tag=x", 1)), append("b", "z", IfNone("tag=y", 1)))
    assert late == (2, 2)
    assert isinstance(early, ConditionFailed)
    both = together(append("a", "v", IfNone("tag=w", 2)), append("b", "w", IfNone("tag=x", 1)))
    assert both[0] == (3, 3)
    assert isinstance(both[1], BatchResult)
    assert [event.tags for event in store.read_all()] == [("x",), ("y",), ("v",), ("w",)]
    either = Query(types=["T"]) | Query(tags=["z"])
    for query in (either, Query(tags=["z"]) | Query(types=["T"], tags=["u"])):
        head = store.head
        other, error = together(append("a", "u", IfNone("tag=z", 4)), append("b", "z", IfNone(query, head)))
        assert isinstance(error, ConditionFailed)
        assert other is not None
        assert error.position == other[0] == store.head
    place, outcome = together(
        append("a", "u", IfNone("tag=z", 4)), append("b", "z", IfNone("type=U,tag=u", store.head))
    )
    assert place == (store.head - 1, 6)
    assert isinstance(outcome, BatchResult)
