"""Mirrors to and from a directory: nothing changes on the way, nothing comes twice, and both ends know it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import Event, EventStore, IfNone, NewEvent
from evlog.model.filters import LogSelection
from evlog.model.history import HistoryPiece, RemovedRecord, Standing
from evlog.testing.base import LONG_SECONDS, EngineTests, NewStore, OpenStore, new, numbers, run_to_end
from evlog.transfer import Import, fork, plan_mirror, promote


def everything(store: EventStore) -> list[Event]:
    """Return all events, with the store's own."""
    return list(store.engine.read_all(LogSelection()))


class Killed(Exception):
    """Ends a compaction where a kill would."""


def bad_above_five(event: Event) -> None:
    """Fail for some numbers: their events are parked."""
    if int(event.data) > 5:
        raise ValueError(int(event.data))


class MirrorTests(EngineTests):
    """The other end is a store in a directory."""

    @pytest.fixture
    def directory(self, tmp_path: os.PathLike[str]) -> Iterator[EventStore]:
        with evlog.open(f"{tmp_path}/other", create=True, segment_events=16) as opened:
            yield opened

    @pytest.fixture
    def varied(self, directory: EventStore) -> EventStore:
        """Events of every kind, policies, a deleted stream, and gaps where events were removed."""
        for number in range(30):
            stream = ("a-0", "a-1", "b-0", "c")[number % 4]
            directory.append(
                stream, [new(number, id=UUID(int=2 * number + 1)), new(number, "U", tags=["t:1"])]
            )
        directory.append_many([("a-0", [new(100), new(101)]), ("d", [new(102)]), ("a-0", [new(103)])])
        directory.set_retention("a-0", max_count=4)
        directory.set_retention(category="b", max_count=2)
        directory.delete_stream("c")
        directory.compact()
        raw = b'{"b":1,"a":1.0e3,"b":2,"n":1e400,"u":"\\u0000"}'
        directory.append("s", [NewEvent("J", raw, metadata={"$correlationId": "\u00e9"}, tags=["x", 'y"'])])
        directory.append("s", [NewEvent("T", "line\nline\x00", content_type="text")])
        directory.append("s-\u00fc", [NewEvent("B", bytes(range(256)), content_type="binary", metadata={})])
        return directory

    def test_everything_is_the_same_there_and_back(
        self, varied: EventStore, store: EventStore, tmp_path: os.PathLike[str]
    ) -> None:
        there = evlog.mirror(varied, store)
        assert (there.position, there.events, there.lost) == (varied.head, len(everything(varied)), 0)
        assert there.removed == varied.head - there.events > 0
        with evlog.open(f"{tmp_path}/back", create=True) as back:
            assert evlog.mirror(store, back)[:2] == there[:2]
            for mirror in (store, back):
                assert everything(mirror) == everything(varied)
                assert mirror.head == varied.head
                assert mirror.verify().ok
                assert [*mirror.engine.read_removed(0, mirror.head)] == [
                    *varied.engine.read_removed(0, varied.head)
                ]
            pinned = varied.verify().digest
            assert pinned is not None
            assert evlog.Mirror(varied, store).check().digest == pinned
            for mirror in (store, back):
                if mirror.capabilities.verify != "versions":
                    assert mirror.verify().digest == pinned
                    assert mirror.verify(against=pinned).ok
            names = [info.stream for info in varied.streams(include_deleted=True)]
            assert [back.stream_version(name) for name in names] == [
                varied.stream_version(name) for name in names
            ]
            assert list(back.streams(include_system=True)) == list(varied.streams(include_system=True))
            assert back.policies() == varied.policies()

    def test_what_the_engine_has_written_is_the_same_in_a_directory(
        self, filled: EventStore, directory: EventStore
    ) -> None:
        if filled.capabilities.retention:
            filled.set_retention("a-0", max_count=1)
            filled.delete_stream("b-1")
        if filled.capabilities.compaction:
            filled.compact()
        evlog.mirror(filled, directory)
        assert everything(directory) == everything(filled)
        assert directory.verify().ok
        assert evlog.Mirror(filled, directory).check().ok
        assert directory.engine.find_ids([UUID(int=1).bytes]) == {UUID(int=1).bytes: 1}

    def test_the_next_run_continues_where_the_destination_is(
        self, filled: EventStore, directory: EventStore
    ) -> None:
        assert evlog.mirror(filled, directory).events == 20
        assert evlog.mirror(filled, directory).events == 0
        filled.append("a-0", [new(20), new(21)])
        assert plan_mirror(filled, directory)[:3] == (20, 22, 2)
        assert evlog.mirror(filled, directory).events == 2
        assert everything(directory) == everything(filled)

    def test_what_the_source_removes_is_removed(self, directory: EventStore, store: EventStore) -> None:
        for number in range(30):
            directory.append("abcd"[number % 4], [new(number, id=UUID(int=number + 1))])
        evlog.mirror(directory, store)
        directory.delete_stream("b")
        directory.set_retention("c", max_count=2)
        directory.set_retention("d", max_count=2)
        directory.compact()
        directory.set_retention("d", max_count=9)
        assert evlog.Mirror(directory, store).check().removed_since == 18
        assert evlog.mirror(directory, store).removed == 18
        assert everything(store) == everything(directory)
        assert evlog.Mirror(directory, store).check()[:2] == (len(everything(directory)), 0)
        assert store.verify().ok
        assert store.engine.find_ids([UUID(int=2).bytes]) == {UUID(int=2).bytes: 2}
        assert [store.stream_version(name) for name in "abcd"] == [8, 8, 7, 7]
        with pytest.raises(evlog.MirrorConflict):
            store.engine.remove_history(store.engine.store_id, [])
        assert evlog.mirror(directory, store).removed == 0

    @pytest.mark.parametrize("follows", [False, True])
    def test_what_a_killed_compaction_has_removed_is_removed(
        self, store: EventStore, directory: EventStore, follows: bool
    ) -> None:
        if not store.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        for number in range(10):
            store.append("abc"[number % 3], [new(number)])
        store.delete_stream("a")
        store.set_retention("b", max_count=1)
        evlog.mirror(store, directory)

        def kill(_done: int, _total: int) -> None:
            raise Killed

        def stop_when_removed(_done: int, _total: int) -> None:
            if mirror.result.removed == store.engine.removals():
                mirror.stop()

        with pytest.raises(Killed):
            store.compact(progress=kill)
        with evlog.Mirror(store, directory) as mirror:
            removed = (mirror.follow(stop_when_removed) if follows else mirror.copy()).removed
        assert removed == store.engine.removals()
        assert everything(directory) == everything(store)
        store.compact()
        evlog.mirror(store, directory)
        assert store.engine.removals() == 6
        assert everything(directory) == everything(store)
        assert directory.verify().ok

    def test_what_was_appended_together_stays_together(
        self, directory: EventStore, store: EventStore
    ) -> None:
        for count in (1, 3, 1, 2):
            directory.append("a", [new(n) for n in range(count)])
        with evlog.Mirror(directory, store, piece_events=2) as mirror:
            mirror.copy()
        frames = [frame for frame, _ in store.engine.read_frames(0, store.head)]
        ends = {position for position in range(1, 7) if frames[position] != frames[position - 1]}
        assert ends <= {1, 4, 5}

    def test_a_piece_is_appended_at_the_end_of_its_own_mirror_only(
        self, directory: EventStore, store: EventStore
    ) -> None:
        for number in range(20):
            directory.append("ab"[number % 2], [new(number)])
        id = directory.engine.store_id
        events = [event for _, event in directory.engine.read_frames(0, 20)]

        def piece(after: int, end: int) -> HistoryPiece:
            return HistoryPiece(id, after, end, events[after:end], [after + 1] * (end - after))

        with pytest.raises(evlog.MirrorConflict):
            store.engine.append_history(piece(0, 20))
        assert not store.engine.change_standing(Standing(mirror_of=id), Standing())
        assert not store.engine.change_standing(Standing(), Standing(mirror_of=id), head=1)
        assert store.engine.change_standing(Standing(), Standing(mirror_of=id), head=0)
        for late in (piece(1, 20), piece(5, 20)):
            with pytest.raises(evlog.MirrorConflict):
                store.engine.append_history(late)
        store.engine.append_history(piece(0, 7))
        for wrong in (piece(0, 7), piece(0, 20), piece(6, 20), piece(8, 20)):
            with pytest.raises(evlog.MirrorConflict):
                store.engine.append_history(wrong)
        store.engine.append_history(piece(7, 20))
        assert everything(store) == events
        assert store.verify().ok

    def test_a_piece_may_end_with_removed_events(self, directory: EventStore, store: EventStore) -> None:
        for number in range(6):
            directory.append("ab"[number % 2], [new(number)])
        id = directory.engine.store_id
        events = [event for _, event in directory.engine.read_frames(0, 6)]
        gone = [RemovedRecord(e.position, e.version, e.stream, e.id_bytes, b"", e.time_us) for e in events]
        store.engine.change_standing(Standing(), Standing(mirror_of=id))
        for piece in (
            HistoryPiece(id, 0, 2, [], [], gone[:2]),
            HistoryPiece(id, 2, 4, [events[2]], [3], [gone[3]]),
            HistoryPiece(id, 4, 6, events[4:], [5, 6]),
        ):
            store.engine.append_history(piece)
            assert store.head == piece.end
            if store.capabilities.compaction:
                assert store.verify().ok
        assert [each.position for each in store.engine.read_removed(0, 6)] == [1, 2, 4]
        assert everything(store) == [events[2], *events[4:]]
        assert store.engine.find_ids([events[3].id_bytes]) == {events[3].id_bytes: 4}

    # --- what a mirror refuses

    def test_a_mirror_refuses_every_other_change(
        self, directory: EventStore, store: EventStore, other: EventStore
    ) -> None:
        directory.append("a-0", [new(-1), new(0)])
        directory.set_retention("a-0", max_count=1)
        other.has_stream("a-0")
        evlog.mirror(directory, store)
        changes: list[Callable[[], object]] = [
            lambda: store.append("a-0", [new(1)]),
            lambda: other.append("b", [new(1)]),
            lambda: store.subscribe("n"),
        ]
        if store.capabilities.retention:
            changes += [
                lambda: store.set_retention("a-0", max_count=2),
                lambda: store.delete_stream("a-0"),
                store.compact,
            ]
        for change in changes:
            with pytest.raises(evlog.StoreIsMirror) as caught:
                change()
            assert caught.value.mirror_of == directory.engine.store_id
        assert store.standing.mirror_of == directory.engine.store_id
        assert everything(store) == everything(directory)
        with store.subscribe(follow=False) as run:
            assert numbers(run) == [-1, 0]
        promote(store)
        assert store.append("a-0", [new(1)]).first_version == 3
        assert store.standing == Standing()

    def test_an_unfinished_fork_is_continued_by_a_fork_alone(
        self, directory: EventStore, store: EventStore
    ) -> None:
        for number in range(9):
            directory.append("ab"[number % 2], [new(number)])

        def end(_done: int, _total: int) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            fork(directory, store, at=5, progress=end)
        with pytest.raises(evlog.StoreIsMirror, match="unfinished fork"):
            store.append("a", [new(9)])
        with pytest.raises(evlog.MirrorConflict, match="unfinished fork of the source"):
            evlog.mirror(directory, store)
        assert fork(directory, store, at=7)[1:] == (7, 2)
        assert everything(store) == everything(directory)[:7]
        assert store.append("a", [new(9)]).first_version == 5
        with pytest.raises(evlog.MirrorConflict, match="other events"):
            fork(directory, store)
        assert store.verify().ok

    def test_imported_events_have_the_times_that_they_had(self, store: EventStore) -> None:
        store.append("a", [new(0)])
        begin = datetime(2024, 1, 1, tzinfo=UTC)
        later = next(store.read("a")).time
        ids = [UUID(int=number + 1) for number in range(3)]
        with Import(store) as load:
            with pytest.raises(evlog.StoreIsMirror, match="imported"):
                store.append("a", [new(9)])
            load.append(evlog.NewEvents(["a"], "T", [b"1"], ids=ids[:1]), [begin])
            load.append(evlog.NewEvents(["b", "a"], "T", [b"2", b"3"], tags=[["x"], []]), [later] * 2)
            again = load.append(evlog.NewEvents(["a"], "T", [b"1"], ids=ids[:1]), [begin])
            assert (again.duplicates, again.positions, again.versions) == ([True], [2], [2])
            with pytest.raises(evlog.IdConflict):
                load.append(evlog.NewEvents(["a"], "T", [b"4"], ids=ids[:1]), [begin])
            assert load.delayed == 1
        assert [event.time for event in store.read_all()] == [later] * 4
        assert [event.version for event in store.read("a")] == [1, 2, 3]
        assert store.append("a", [new(5)], 3).first_position == 5
        assert numbers(store.read_all(tags=["x"])) == [2]
        assert store.verify().ok

    def test_versions_continue_where_others_append_to_what_was_a_mirror(
        self, directory: EventStore, store: EventStore, open_store: OpenStore
    ) -> None:
        directory.append("a", [new(0)])
        evlog.mirror(directory, store)
        promote(store)
        with open_store() as late:
            assert late.append("a", [new(1)], 1).first_version == 2
        assert store.append("a", [new(2)]).first_version == 3
        assert [event.version for event in store.read("a")] == [1, 2, 3]

    def test_a_destination_with_other_events_is_refused(
        self, filled: EventStore, directory: EventStore, open_store: OpenStore
    ) -> None:
        directory.append("x", [new(0)])
        with pytest.raises(evlog.MirrorConflict):
            evlog.mirror(filled, directory)
        with pytest.raises(evlog.MirrorConflict):
            evlog.mirror(directory, filled)
        assert (directory.head, filled.head) == (1, 20)
        with open_store() as same, pytest.raises(evlog.InvalidArgument):
            evlog.mirror(filled, same)

    def test_two_mirrors_to_one_destination_do_not_run_at_once(
        self, directory: EventStore, store: EventStore, other: EventStore
    ) -> None:
        with evlog.Mirror(directory, store):
            with pytest.raises(evlog.MirrorBusy):
                evlog.mirror(directory, other)
            with pytest.raises(evlog.MirrorBusy):
                promote(other)
        evlog.mirror(directory, other)

    def test_no_event_is_older_than_the_last_one_that_was_copied(self, store: EventStore) -> None:
        source_id, later_us = str(UUID(int=1 << 64)), 4_102_444_800_000_000
        assert store.engine.change_standing(Standing(), Standing(source_id))
        copied = Event((1, 1, "a", "T", UUID(int=1).bytes, later_us, 0, b"1", None))
        removed = RemovedRecord(2, 1, "b", UUID(int=2).bytes, b"", 0)
        store.engine.append_history(HistoryPiece(source_id, 0, 1, [copied], [1]))
        store.engine.append_history(HistoryPiece(source_id, 1, 2, [], [], [removed]))
        promote(store)
        store.append("a", [new(2)])
        assert [event.time_us >= later_us for event in store.read_all()] == [True, True]

    # --- merging

    def test_a_merge_appends_what_is_new(self, filled: EventStore, directory: EventStore) -> None:
        directory.append("a-0", [new(0, "T", id=UUID(int=1)), new(100)])
        assert plan_mirror(filled, directory, merge=True).events == 20
        done = evlog.mirror(filled, directory, merge=True)
        assert (done.events, done.duplicates) == (19, 1)
        assert sorted(numbers(directory.read_all())) == [*range(20), 100]
        assert [event.version for event in directory.read("a-0")] == list(range(1, 7))
        filled.append("a-0", [new(20)])
        assert evlog.mirror(filled, directory, merge=True)[1:3] == (1, 0)
        assert evlog.Mirror(filled, directory, merge=True).check().ok
        directory.append("a-0", [new(101)])
        assert directory.verify().ok

    def test_a_merge_ends_at_an_id_with_other_content(
        self, filled: EventStore, directory: EventStore
    ) -> None:
        directory.append("a-0", [new(99, "T", id=UUID(int=9))])
        with pytest.raises(evlog.IdConflict):
            evlog.mirror(filled, directory, merge=True)
        found = evlog.Mirror(filled, directory, merge=True).check()
        assert found.ok  # nothing was copied

    def test_a_merge_leaves_redacted_events_out(self, directory: EventStore, store: EventStore) -> None:
        for number in range(3):
            directory.append("a", [new(number)])
        directory.redact(2, reason="r")
        assert plan_mirror(directory, store, merge=True).events == 2
        evlog.mirror(directory, store, merge=True)
        assert numbers(store.read_all()) == [0, 2]
        assert evlog.Mirror(directory, store, merge=True).check().ok
        assert store.verify().ok

    def test_a_directory_is_merged_into_the_engine(self, filled: EventStore, directory: EventStore) -> None:
        directory.append("a-0", [new(0, "T", id=UUID(int=1)), new(100)])
        directory.set_retention("a-0", max_count=9)
        assert evlog.mirror(directory, filled, merge=True)[1:3] == (1, 1)
        assert evlog.mirror(directory, filled, merge=True)[1:3] == (0, 0)
        assert numbers(filled.read("a-0")) == [0, 4, 8, 12, 16, 100]
        assert filled.policies() == []

    def test_a_merge_is_cut_to_what_the_engine_takes(self, directory: EventStore, store: EventStore) -> None:
        for number in range(70):
            directory.append(f"s-{number}", [new(number, tags=["all", f"n:{number}"])])
        directory.delete_stream("s-3")
        directory.compact()
        done = evlog.mirror(directory, store, merge=True)
        assert (done.position, done.events) == (directory.head, 69)
        assert numbers(store.read_all(tags=["all"])) == [n for n in range(70) if n != 3]
        assert evlog.mirror(directory, store, merge=True)[1:3] == (0, 0)
        assert evlog.Mirror(directory, store, merge=True).check().ok

    # --- subscriptions and moving

    def test_subscriptions_continue_at_the_destination_after_a_cutover(
        self, filled: EventStore, directory: EventStore
    ) -> None:
        filled.consume("n", bad_above_five, follow=False, retries=0, on_failure="park", types=["T"])
        filled.consume("gone", lambda _: None, follow=False)
        evlog.mirror(filled, directory)
        filled.delete_subscription("gone")
        filled.append("a-0", [new(20), new(21, "U")])
        evlog.mirror(filled, directory, cutover=True)
        assert [info.name for info in directory.subscriptions()] == ["n"]
        assert [place[:7] for place in directory.parked("n")] == [place[:7] for place in filled.parked("n")]
        with directory.subscribe("n", types=["T"], follow=False) as run:
            assert numbers(run) == [20]

    def test_a_cutover_ends_the_appends_of_the_source(
        self, filled: EventStore, other: EventStore, directory: EventStore
    ) -> None:
        other.append("x", [new(20)])  # by a writer that stays open
        done = evlog.mirror(filled, directory, cutover=True)
        assert done.events == 21
        for change in (lambda: other.append("x", [new(21)]), lambda: filled.subscribe("n")):
            with pytest.raises(evlog.StoreMoved) as caught:
                change()
            assert caught.value.moved_to == directory.path
        assert directory.append("x", [new(21)]).first_version == 2
        assert evlog.mirror(filled, directory, cutover=True).events == 0
        assert numbers(filled.read_all()) == [*range(21)]
        promote(filled)
        assert other.append("x", [new(22)]).first_version == 2

    def test_a_cutover_waits_for_no_running_subscription(
        self, filled: EventStore, directory: EventStore
    ) -> None:
        with filled.subscribe("n"), pytest.raises(evlog.SubscriptionBusy):
            evlog.mirror(filled, directory, cutover=True)
        filled.append("x", [new(20)])
        evlog.mirror(filled, directory, cutover=True)
        assert run_to_end(directory, "n") == [*range(21)]

    def test_ids_are_known_after_a_move_also_those_of_removed_events(
        self, directory: EventStore, store: EventStore
    ) -> None:
        if not store.capabilities.compaction:
            pytest.skip("the engine knows no removed events")
        for number in range(9):
            directory.append("ab"[number % 2], [new(number, id=UUID(int=number + 1))])
        directory.delete_stream("b")
        directory.compact()
        evlog.mirror(directory, store, cutover=True)
        for number in range(9):
            assert store.append("ab"[number % 2], [new(number, id=UUID(int=number + 1))]).duplicate
        with pytest.raises(evlog.IdConflict):
            store.append("c", [new(1, id=UUID(int=2))])
        assert store.append("b", [new(0)]).first_version == 5

    def test_removed_events_count_in_conditions_after_a_move(self, new_store: NewStore) -> None:
        with new_store()() as source, new_store()() as destination:
            if not (source.capabilities.compaction and source.capabilities.conditions):
                pytest.skip("the engine knows no removed events, or no conditions")
            source.append("a", [new(0, tags=["name:x"]), new(1)])
            source.append("b", [new(2, tags=["name:y"])])
            source.delete_stream("a")
            source.compact()
            evlog.mirror(source, destination)
            source.delete_stream("b")
            source.compact()
            evlog.mirror(source, destination, cutover=True)
            for name, position in (("x", 1), ("y", 3)):
                with pytest.raises(evlog.ConditionFailed) as caught:
                    destination.append("c", [new(3)], conditions=IfNone(f"type=T,tag=name:{name}"))
                assert caught.value.position == position
            destination.append("c", [new(3)], conditions=IfNone("tag=name:z"))
            destination.append("c", [new(3)], conditions=IfNone("type=U,tag=name:x"))
            assert destination.verify().ok

    # --- following and comparing

    def test_a_mirror_follows_until_it_is_stopped(
        self, filled: EventStore, other: EventStore, directory: EventStore
    ) -> None:
        results: list[Any] = []
        reached = threading.Condition()

        def progress(_done: int, _total: int) -> None:
            with reached:
                reached.notify_all()

        with evlog.Mirror(filled, directory) as mirror:
            thread = threading.Thread(target=lambda: results.append(mirror.follow(progress)))
            thread.start()
            for number in range(20, 25):
                position = other.append("a-0", [new(number)]).last_position
                with reached:
                    assert reached.wait_for(lambda: directory.head >= position, LONG_SECONDS)  # noqa: B023
            mirror.stop()
            thread.join(LONG_SECONDS)
        assert [done.events for done in results] == [25]
        assert everything(directory) == everything(filled)

    @pytest.mark.parametrize(("field", "name"), [(1, "version"), (5, "time"), (7, "data"), (8, "metadata")])
    def test_a_comparison_names_the_first_difference(
        self, directory: EventStore, store: EventStore, field: int, name: str
    ) -> None:
        for number in range(9):
            directory.append(f"s-{number}", [new(number, metadata={"a": 1})])
        source = directory.engine
        pairs = [*source.read_frames(0, 9)]
        events = [event for _, event in pairs]
        changed = {1: 2, 5: events[5][5] + 1, 7: b"55", 8: b'{"a":2}'}[field]
        events[5] = Event((*events[5][:field], changed, *events[5][field + 1 :]))
        store.engine.change_standing(Standing(), Standing(mirror_of=source.store_id))
        frames = [frame for frame, _ in pairs]
        store.engine.append_history(HistoryPiece(source.store_id, 0, 9, events, frames))
        found = evlog.Mirror(directory, store).check()
        assert not found.ok
        assert found.difference is not None
        assert found.difference.position == 6
        assert found.difference.detail.endswith(f"has another {name}")
