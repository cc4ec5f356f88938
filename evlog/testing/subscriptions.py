"""Named subscriptions continue, keep their filter, run once, and park what fails."""

from __future__ import annotations

import threading
from datetime import UTC
from uuid import UUID

import pytest

import evlog
from evlog import Event, EventStore
from evlog.model.checkpoints import Checkpoint
from evlog.testing.base import LONG_SECONDS, EngineTests, numbers, run_to_end


def _refuse(event: Event) -> None:
    raise ValueError(f"no {event.position}")


class SubscriptionTests(EngineTests):
    """What a name keeps."""

    def test_a_name_continues_where_its_last_run_ended(self, filled: EventStore, other: EventStore) -> None:
        with filled.subscribe("n", follow=False) as run:
            for event in run:
                if event.data == b"5":
                    break
        assert filled.subscription("n").lag_events == 15
        with other.subscribe("n", follow=False) as run:
            assert numbers(run) == list(range(5, 20))
        assert [info.name for info in filled.subscriptions()] == ["n"]
        assert filled.subscription("n").position == filled.head
        assert run_to_end(filled, "n") == []

    def test_a_name_keeps_its_filter_and_runs_once(self, filled: EventStore, other: EventStore) -> None:
        with filled.subscribe("n", types=["T"]):
            with pytest.raises(evlog.SubscriptionBusy):
                other.subscribe("n", types=["T"])
            assert other.subscription("n").running
        with pytest.raises(evlog.InvalidArgument):
            other.subscribe("n", types=["T", "U"])
        run_to_end(other, "n")
        filled.append("new", [evlog.NewEvent("Other"), evlog.NewEvent("T")])
        with other.subscribe("n", follow=False) as run:  # with the filter of its first run
            assert [event.type for event in run] == ["T"]
        assert other.subscription("n").filter == evlog.EventFilter(types=["T"])

    def test_a_name_is_reset_and_deleted(self, filled: EventStore) -> None:
        position = next(filled.read("a-1")).position
        filled.consume("n", lambda _: None, follow=False)
        filled.reset_subscription("n", position)
        assert run_to_end(filled, "n") == list(range(2, 20))
        with pytest.raises(evlog.InvalidArgument):
            filled.reset_subscription("n", filled.head + 1)
        filled.delete_subscription("n")
        with pytest.raises(evlog.SubscriptionNotFound):
            filled.subscription("n")
        assert filled.subscriptions() == []

    def test_verify_finds_a_checkpoint_beyond_the_end(self, filled: EventStore) -> None:
        run_to_end(filled, "n")
        assert filled.verify(quick=True).ok
        checkpoint = filled.engine.checkpoint("n")
        checkpoint.acquire()
        checkpoint.save(Checkpoint(filled.head + 1, None, None))
        checkpoint.release()
        for is_quick in (True, False):
            report = filled.verify(quick=is_quick)
            assert [finding.kind for finding in report.findings] == ["checkpoint"]
            assert not report.ok

    def test_a_first_run_does_not_begin_behind_the_end(self, filled: EventStore) -> None:
        with pytest.raises(evlog.InvalidArgument):
            filled.subscribe("n", after=filled.head + 1)
        assert filled.subscriptions() == []

    def test_events_that_fail_are_parked_and_replayed(self, filled: EventStore) -> None:
        bad = {3, 7}

        def handler(event: Event) -> None:
            if int(event.data) in bad:
                raise ValueError(f"bad {int(event.data)}")

        filled.consume("n", handler, follow=False, retries=1, on_failure="park")
        first, second = filled.parked("n")
        assert (first.stream, first.version, first.error, first.attempts) == (
            "b-1",
            1,
            "ValueError: bad 3",
            1,
        )
        assert second.id == UUID(int=8)
        info = filled.subscription("n")
        for time, time_us in ((first.time, first.time_us), (info.saved_time, info.saved_us)):
            assert (time.tzinfo, round(time.timestamp() * 1e6)) == (UTC, time_us)
        assert filled.subscription("n").parked == 2
        bad.discard(3)
        assert filled.replay_parked("n", handler) == (1, 1, 0)
        (left,) = filled.parked("n")
        assert (left.position, left.attempts) == (second.position, 2)
        bad.clear()
        assert filled.replay_parked("n", handler) == (1, 0, 0)
        assert filled.parked("n") == []

    def test_a_handler_that_fails_stops_a_run_before_its_event(self, filled: EventStore) -> None:
        def handler(event: Event) -> None:
            if event.data == b"4":
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            filled.consume("n", handler, follow=False, retries=1)
        assert run_to_end(filled, "n") == list(range(4, 20))

    def test_parked_events_are_replayed_and_dropped_by_position(self, filled: EventStore) -> None:
        filled.consume("n", _refuse, follow=False, retries=1, on_failure="park")
        first, second, third, *rest = [event.position for event in filled.parked("n")]
        seen: list[int] = []
        result = filled.replay_parked("n", lambda event: seen.append(event.position), [third, first])
        assert (seen, result.succeeded) == ([first, third], 2)
        filled.drop_parked("n", [second])
        assert [event.position for event in filled.parked("n")] == rest
        for call in (filled.drop_parked, lambda name, at: filled.replay_parked(name, _refuse, at)):
            with pytest.raises(evlog.InvalidArgument):
                call("n", [rest[0], second])
        assert [(event.position, event.attempts) for event in filled.parked("n")] == [(at, 1) for at in rest]

    def test_a_program_waits_for_what_a_name_has_handled(self, filled: EventStore, other: EventStore) -> None:
        with pytest.raises(evlog.SubscriptionNotFound):
            other.wait_for_subscription("n", 1, timeout=0)
        with filled.subscribe("n", types=["U"], to=filled.head - 1, shard=(1, 2)) as run:
            with other.subscribe("n", shard=(2, 2), follow=False) as second:
                list(second)
            assert not other.wait_for_subscription("n", 1, timeout=0)
            assert other.wait_for_subscription("n#2/2", filled.head, timeout=0)
            consumer = threading.Thread(target=lambda: list(run))
            consumer.start()
            assert other.wait_for_subscription("n", filled.head - 1, timeout=LONG_SECONDS)
            consumer.join()
        assert not other.wait_for_subscription("n", filled.head, timeout=0.001)

    def test_shards_share_a_name_by_stream(self, filled: EventStore, other: EventStore) -> None:
        expected = {event.position: event.stream for event in filled.read_all()}
        found: dict[int, list[Event]] = {}
        for number, store in ((1, filled), (2, other), (3, filled)):
            with store.subscribe("n", shard=(number, 3), follow=False) as run:
                found[number] = list(run)
        taken = [event for events in found.values() for event in events]
        assert {event.position: event.stream for event in taken} == expected
        assert len(taken) == len(expected)
        for events in found.values():
            assert [event.position for event in events] == sorted(event.position for event in events)
        streams = [{event.stream for event in events} for events in found.values()]
        assert sum(map(len, streams)) == len(set(expected.values()))
        assert [info.name for info in other.subscriptions()] == ["n#1/3", "n#2/3", "n#3/3"]
        assert other.subscription("n").position == other.head

    def test_shards_begin_together_and_run_once_each(self, filled: EventStore, other: EventStore) -> None:
        with filled.subscribe("n", types=["T"], shard=(2, 3), after=filled.head - 1):
            assert {info.position for info in filled.subscriptions()} == {filled.head - 1}
            with pytest.raises(evlog.SubscriptionBusy):
                other.subscribe("n", shard=(2, 3))
            with pytest.raises(evlog.SubscriptionBusy):
                other.subscribe("n", shard=(1, 2))
            with pytest.raises(evlog.SubscriptionBusy):
                other.subscribe("n")
            with pytest.raises(evlog.InvalidArgument):
                other.subscribe("n", types=["U"], shard=(1, 3))
            with other.subscribe("n", shard=(1, 3)):
                assert [info.running for info in filled.subscriptions()] == [True, True, False]
            assert other.subscription("n").running

    def test_the_number_of_shards_changes_where_all_are_level(
        self, filled: EventStore, other: EventStore
    ) -> None:
        run_to_end(filled, "n")
        filled.append("a-1", [evlog.NewEvent("T", 20)])
        for shard in ((1, 2), (2, 2)):
            with filled.subscribe("n", shard=shard, follow=False) as run:  # where the only one was
                assert numbers(run) in ([], [20])
        assert [info.name for info in filled.subscriptions()] == ["n#1/2", "n#2/2"]
        filled.append("a-1", [evlog.NewEvent("T", 21)])
        filled.consume("n", lambda _: None, shard=(1, 2), follow=False)
        for count in (1, 3):
            with pytest.raises(evlog.ShardsApart):
                other.subscribe("n", shard=(1, count))
        other.consume("n", lambda _: None, shard=(2, 2), follow=False)
        assert run_to_end(other, "n") == []
        assert [info.name for info in filled.subscriptions()] == ["n"]

    def test_shards_are_brought_level_while_events_come(self, filled: EventStore, other: EventStore) -> None:
        level = filled.head
        for shard in ((1, 2), (2, 2)):
            other.append("b-0", [evlog.NewEvent("T", 20)])
            filled.consume("n", lambda _: None, shard=shard, to=level)
        assert run_to_end(filled, "n") == [20, 20]

    def test_what_shards_have_parked_moves_along(self, filled: EventStore, other: EventStore) -> None:
        for shard in ((1, 2), (2, 2)):
            filled.consume("n", _refuse, shard=shard, follow=False, retries=1, on_failure="park")
        positions = [event.position for event in filled.read_all()]
        assert sorted(place.position for place in other.parked("n")) == positions
        filled.drop_parked("n", positions[:2])
        assert other.subscription("n").parked == len(positions) - 2
        with pytest.raises(evlog.InvalidArgument):
            filled.drop_parked("n", positions[:1])
        assert run_to_end(filled, "n") == []
        assert sorted(place.position for place in other.parked("n")) == positions[2:]
        assert other.parked("n")[0].error.startswith("ValueError")
        result = other.replay_parked("n", lambda _: None)
        assert (result.succeeded, other.parked("n")) == (len(positions) - 2, [])

    def test_shards_are_reset_and_deleted_together(self, filled: EventStore, other: EventStore) -> None:
        for shard in ((1, 2), (2, 2)):
            filled.consume("n", lambda _: None, shard=shard, follow=False)
        filled.reset_subscription("n#2/2", 0)
        assert [info.position for info in other.subscriptions()] == [filled.head, 0]
        assert other.subscription("n").position == 0
        filled.reset_subscription("n", 3)
        assert {info.position for info in other.subscriptions()} == {3}
        filled.delete_subscription("n")
        assert other.subscriptions() == []
        with pytest.raises(evlog.SubscriptionNotFound):
            other.subscription("n")

    def test_a_shard_is_one_of_its_number(self, filled: EventStore) -> None:
        for shard in ((0, 3), (4, 3), (1, 0), (-1, -1), (1, 1_001)):
            with pytest.raises(evlog.InvalidArgument):
                filled.subscribe("n", shard=shard)
        for name in (None, "n#1/3"):
            with pytest.raises(evlog.InvalidArgument):
                filled.subscribe(name, shard=(1, 3))
        assert filled.subscriptions() == []
