"""States folded from events, and the snapshots that keep them."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import pytest

from evlog import Event, EventNotFound, EventStore, Fold, InvalidArgument, NewEvent, Query, SnapshotNotFound
from evlog.testing.base import LONG_SECONDS, EngineTests, new


def collect(numbers: list[int], event: Event) -> list[int]:
    return [*numbers, int(event.data)]


class Counted(Fold):
    """Collects numbers, and counts how many events it was given."""

    def __init__(self, **options: Any) -> None:
        self.calls = 0
        super().__init__(self._collect, list, name="counted", **options)

    def _collect(self, numbers: list[int], event: Event) -> list[int]:
        self.calls += 1
        return collect(numbers, event)


class StateTests(EngineTests):
    """What `state` gives, and when it reads everything again."""

    def test_the_default_merges_data(self, store: EventStore) -> None:
        assert store.state("o").value is None
        for data in (
            b'{"a": 1, "b": {"c": [1, {"d": null}], "e": 1.50}}',
            b'{"b": {"e": null, "f": {"g": null}}, "h": 12345678901234567890123}',
            b'{"a": null}',
        ):
            store.append("o", [NewEvent("T", data)])
        store.append("o", [NewEvent("N", "text", content_type="text")])
        state = store.state("o")
        assert state.value == {"b": {"c": [1, {"d": None}], "f": {}}, "h": 12345678901234567890123}
        assert (state.events, state.version, state.position) == (4, 4, store.head)
        assert state.time == next(store.read("o", reverse=True)).time
        store.append("o", [NewEvent("T", [1])])
        assert store.state("o").value == [1]
        store.append("o", [NewEvent("T", {"b": {"x": 1}})])
        assert store.state("o").value == {"b": {"x": 1}}

    def test_a_state_is_of_a_stream_a_selection_or_a_query(self, filled: EventStore) -> None:
        assert filled.state("a-1", collect, []).value == [1, 5, 9, 13, 17]
        assert filled.state("a-1", collect, list, at=3).value == [1, 5, 9]
        assert filled.state("a-1", collect, [], at=0) == ([], 0, 0, 0, 0)
        assert filled.state("none", collect, []) == ([], 0, 0, 0, 0)
        assert filled.state(None, collect, [], category="b", types=["U"]).value == [3, 7, 11, 15, 19]
        places = [event.position for event in filled.read_all()]
        state = filled.state(None, collect, [], category="b", at=places[9])
        assert (state.value, state.events, state.version, state.position) == ([2, 3, 6, 7], 4, 0, places[9])
        middle = next(filled.read("b-0", 3))
        assert filled.state("b-0", collect, [], until=middle.time).value == [2, 6]
        query = Query(types=["U"]) | Query(types=["U", "T"])
        assert filled.state(None, collect, [], query=query).value == list(range(20))

    def test_arguments_that_make_no_sense_are_refused(self, filled: EventStore) -> None:
        for options in (
            {"stream": "a", "category": "a"},
            {"stream": "a", "query": "*"},
            {"types": ["T"], "query": "*"},
            {"initial": 1},
            {"fold": Fold(collect, []), "initial": []},
            {"fold": "text"},
            {"at": -1},
            {"fold": lambda _, event: event, "snapshot": "s"},
            {"snapshot": ""},
            {"fold": Fold(lambda _, e: e, name="events"), "snapshot": "s"},
        ):
            with pytest.raises(InvalidArgument):
                filled.state(**options)
        assert filled.snapshots() == []

    def test_the_initial_state_is_not_changed(self, filled: EventStore) -> None:
        initial: list[int] = []

        def extend(numbers: list[int], event: Event) -> list[int]:
            numbers.append(int(event.data))
            return numbers

        assert filled.state("a-1", extend, initial) == filled.state("a-1", extend, initial)
        assert initial == []

    # --- snapshots

    @pytest.mark.parametrize("stream", ["a-1", None])
    def test_with_a_snapshot_only_new_events_are_folded(
        self, filled: EventStore, other: EventStore, stream: str | None
    ) -> None:
        plain = filled.state(stream, collect, [])
        first, second, third = Counted(), Counted(), Counted()
        assert filled.state(stream, first, snapshot="s") == plain
        assert filled.state(stream, second, snapshot="s") == plain
        filled.append("a-1", [new(20), new(21)])
        state = other.state(stream, third, snapshot="s")
        assert state == other.state(stream, collect, [])
        assert (first.calls, second.calls, third.calls) == (plain.events, 0, 2)
        assert other.state("b-0", Counted(), snapshot="s").value == [2, 6, 10, 14, 18]
        info = other.snapshot("s", stream)
        assert (info.fold, info.fold_version, info.events) == ("counted", 1, state.events)
        assert (info.version, info.position) == (state.version, state.position)
        assert {(each.name, each.stream) for each in filled.snapshots()} == {("s", stream), ("s", "b-0")}

    def test_another_fold_version_or_selection_begins_again(self, filled: EventStore) -> None:
        for fold, category in (
            (Counted(), None),
            (Counted(version=2), None),
            (Counted(version="2"), None),
            (Counted(version="2"), "b"),
            (Counted(version="2"), None),
        ):
            state = filled.state(None, fold, snapshot="s", category=category)
            assert fold.calls == state.events > 0

    def test_a_state_of_before_uses_an_older_snapshot_and_saves_none(self, filled: EventStore) -> None:
        for stream, at in (("a-1", 3), (None, next(filled.read("a-1", 3)).position)):
            filled.state(stream, Counted(), snapshot="s")
            saved = filled.snapshot("s", stream)
            fold = Counted()
            assert filled.state(stream, fold, at=at, snapshot="s") == filled.state(stream, collect, [], at=at)
            assert fold.calls
            assert filled.snapshot("s", stream) == saved
            filled.append("a-1", [new(20)])
            last = next(filled.read("a-1", reverse=True))
            after = last.version if stream else last.position
            fold = Counted()
            assert filled.state(stream, fold, at=after, snapshot="s").value[-1] == 20
            assert fold.calls == 1
            until = last.time
            earlier = filled.state(stream, Counted(), until=until, snapshot="s")
            assert earlier == filled.state(stream, collect, [], until=until)
            assert filled.snapshot("s", stream) == saved

    def test_a_selection_s_snapshot_passes_what_does_not_match(self, filled: EventStore) -> None:
        filled.state(None, Counted(), snapshot="s", category="b")
        filled.append("c", [new(20)])
        assert filled.state(None, Counted(), snapshot="s", category="b").position == filled.head
        assert filled.snapshot("s").position == filled.head

    def test_what_the_fold_raises_saves_nothing(self, filled: EventStore) -> None:
        def fail(numbers: list[int], event: Event) -> list[int]:
            if event.data == b"9":
                raise RuntimeError
            return collect(numbers, event)

        with pytest.raises(RuntimeError):
            filled.state("a-1", Fold(fail, list, name="f"), snapshot="s")
        assert filled.snapshots() == []

    def test_a_snapshot_is_deleted_by_name(self, filled: EventStore) -> None:
        filled.state("a-1", Counted(), snapshot="s")
        filled.state(None, Counted(), snapshot="s")
        filled.delete_snapshot("s", "a-1")
        assert [each.stream for each in filled.snapshots()] == [None]
        for name, stream in (("s", "a-1"), ("s", "b-0"), ("t", None)):
            with pytest.raises(SnapshotNotFound):
                filled.snapshot(name, stream)
            with pytest.raises(SnapshotNotFound):
                filled.delete_snapshot(name, stream)
        filled.delete_snapshot("s")
        assert filled.snapshots() == []

    def test_names_of_snapshots_may_be_anything_printable(self, filled: EventStore) -> None:
        for name in ("a", "A", "a.b", ".a", "ü/..", "x" * 100, "%", "a.0123456789abcdef.stream"):
            for stream in ("a-1", None):
                state = filled.state(stream, Counted(), snapshot=name)
                assert filled.snapshot(name, stream).events == state.events
        assert len(filled.snapshots()) == 16

    def test_only_the_one_who_read_it_replaces_a_snapshot(self, filled: EventStore) -> None:
        place = filled.engine.snapshot("s", None)
        assert place.load() is None
        assert not place.save(b"1", b"0")
        assert place.save(b"1", None)
        assert not place.save(b"2", None)
        assert not place.save(b"2", b"0")
        assert place.save(b"\0\n" * 10_000, b"1")
        assert place.load() == b"\0\n" * 10_000
        assert filled.engine.snapshot_names() == [("s", None)]
        assert place.delete()
        assert not place.delete()

    @pytest.mark.parametrize(
        "content", [b'{"position":"x"}', b'{"state":%b,"position":20}' % (b"[" * 2000 + b"]" * 2000)]
    )
    def test_a_content_that_makes_no_sense_is_rebuilt(self, filled: EventStore, content: bytes) -> None:
        filled.engine.snapshot("s", None).save(content, None)
        assert not filled.wait_for("s", 20, timeout=0)
        assert [each.damage is not None for each in filled.snapshots()] == [True]
        fold = Counted()
        assert filled.state(None, fold, snapshot="s").events == fold.calls == 20
        assert [each.damage for each in filled.snapshots()] == [None]

    def test_projections_in_two_threads_have_each_event_once(
        self, store: EventStore, other: EventStore
    ) -> None:
        numbers = list(range(60))

        def project() -> None:
            while len(other.state(None, Counted(), snapshot="s").value) < len(numbers):
                pass

        threads = [threading.Thread(target=project) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in numbers:
            position = store.append(f"s-{number % 3}", [new(number)]).last_position
        assert store.wait_for("s", position, timeout=LONG_SECONDS)
        assert round(store.snapshot("s").saved_time.timestamp() * 1e6) == store.snapshot("s").saved_us
        for thread in threads:
            thread.join()
        assert store.state(None, Counted(), snapshot="s").value == numbers
        assert not store.wait_for("s", position + 1, timeout=0)
        assert not store.wait_for("none", 1, timeout=0.001)

    # --- a snapshot never outlives what it was made from

    def test_deleted_and_retained_events_leave_the_state(self, filled: EventStore) -> None:
        if not filled.capabilities.retention:
            pytest.skip("the engine has no retention")
        filled.state("a-1", Counted(), snapshot="s")
        filled.set_retention("a-1", max_count=2)
        assert filled.state("a-1", Counted(), snapshot="s").value == [13, 17]
        filled.append("a-1", [new(20)])
        assert filled.state("a-1", Counted(), snapshot="s").value == [17, 20]
        filled.set_retention("a-1", clear=True)
        assert filled.state("a-1", Counted(), snapshot="s").value == [1, 5, 9, 13, 17, 20]
        filled.delete_stream("a-1")
        assert filled.state("a-1", Counted(), snapshot="s").value == []
        filled.append("a-1", [new(21)])
        assert filled.state("a-1", Counted(), snapshot="s").value == [21]

    def test_removed_events_leave_the_state_of_a_selection(self, filled: EventStore) -> None:
        if not filled.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        filled.delete_stream("a-1")
        before = filled.state(None, Counted(), snapshot="s")
        assert before.events == 20
        filled.compact()
        after = filled.state(None, Counted(), snapshot="s")
        assert after.value == filled.state(None, collect, []).value
        assert after.events == 15
        fold = Counted()
        filled.state(None, fold, snapshot="s")
        assert fold.calls == 0

    # --- stories

    def test_a_story_is_told_by_position_with_depths(self, store: EventStore) -> None:
        def append(number: int, **links: Any) -> UUID:
            store.append(f"s-{number % 3}", [new(number, id=UUID(int=number + 1), **links)])
            return UUID(int=number + 1)

        first = append(0)
        append(1)
        second = append(2, correlation_id=first, causation_id=first)
        third = append(3, correlation_id=first, causation_id=first)
        append(4, correlation_id=second)
        fourth = append(5, causation_id=second)
        append(6, correlation_id=first, causation_id=UUID(int=99))
        append(7, causation_id=fourth)
        append(8, metadata={"note": f'"$correlationId":"{first}"'})
        append(9, correlation_id=first)
        expected = [(0, 0), (2, 1), (3, 1), (5, 2), (6, 0), (7, 3), (9, 0)]
        for name in (first, second, third, str(fourth), store.get(UUID(int=8)).position):
            story = store.trace(name)
            assert [(int(each.event.data), each.depth) for each in story] == expected, name
        assert [each.caused_by for each in story[:4]] == [None, str(first), str(first), str(second)]
        assert [int(each.event.data) for each in store.trace(UUID(int=2))] == [1]
        assert [int(each.event.data) for each in store.trace(UUID(int=5))] == [2, 4, 5, 7]

    def test_a_story_survives_what_is_odd(self, store: EventStore) -> None:
        ids = [UUID(int=number) for number in (1, 2, 3)]
        for number, id in enumerate(ids):  # a circle, and an id that is not a UUID
            store.append("s", [new(number, id=id, causation_id=ids[number - 1], correlation_id="order 7")])
        assert [each.depth for each in store.trace(ids[1])] == [0, 1, 2]
        with pytest.raises(EventNotFound):
            store.trace(9)

    @pytest.mark.parametrize("stream", ["a-1", None])
    def test_redacted_events_leave_the_state_also_during_a_fold(
        self, filled: EventStore, other: EventStore, stream: str | None
    ) -> None:
        if not filled.capabilities.redaction:
            pytest.skip("the engine has no redaction")

        def total(state: int, event: Event) -> int:
            if event.version == 4 and state == 1 + 5 + 9:
                other.redact(event.position - 8, reason="during the fold")
            return state if event.redacted else state + int(event.data)

        fold = Fold(total, 0, name="total")
        types = ["U"]
        chosen: dict[str, Any] = {} if stream else {"category": "a", "types": types}
        assert filled.state(stream, fold, snapshot="s", **chosen).value == 45
        assert filled.state(stream, fold, snapshot="s", **chosen).value == 40
        last = next(filled.read("a-1", reverse=True))
        filled.redact(last.position, reason="after it")
        assert filled.state(stream, fold, snapshot="s", **chosen).value == 23
