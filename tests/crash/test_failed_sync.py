"""A sync fails: the device does not have what it was to make durable, but reads still show it from memory.

As on Linux the pages count as clean, and later syncs do not write them. The error is reported once to every
open file, or (on other systems) only to the one that synced. So no writer may acknowledge anything after what
memory shows before it has read the tail from the device. Then the power fails, too.
"""

from __future__ import annotations

import contextlib

import pytest

from evlog.errors import StoreIOError
from evlog.store import EventStore
from tests.crash import explore, recordings
from tests.crash.check import SEGMENT_EVENTS, check_reads, check_recovery, open_store
from tests.crash.disk import Killed, RecordingDisk, World
from tests.crash.explore import Outcome
from tests.crash.history import History, all_known, event

_MOST_SYNCS = 60


class Scene:
    """A writer whose n-th sync fails, and another writer and a reader that were opened before."""

    def __init__(
        self, root: str, fail_sync: int, *, tells_all: bool = True, segment_events: int = SEGMENT_EVENTS
    ) -> None:
        self.path = f"{root}/above/store"
        self.world = World(root)
        self.world.tells_all = tells_all
        self.history = History(self.world)
        disk = RecordingDisk(self.world)
        self.other = open_store(self.path, create=True, disk=disk, segment_events=segment_events)
        self.world.note("created", 0)
        self.reader = open_store(self.path, disk=RecordingDisk(self.world))
        self.disk = RecordingDisk(self.world, fail_sync=fail_sync)
        self.store = open_store(self.path, disk=self.disk)
        self.history.send(self.other, [("first", [event(900)])])

    def append(self, store: EventStore, number: int) -> bool:
        """Append one event; return whether it was acknowledged."""
        batch = self.history.sent([("more", [event(number)])])
        with contextlib.suppress(StoreIOError):
            self.history.acked(batch, store.append_many(self.history.batches[batch].appends))
            return True
        return False

    def reopen(self) -> EventStore:
        self.store.close()
        self.store = open_store(self.path, disk=RecordingDisk(self.world))
        return self.store


def fail_a_sync(number: int, *, tells_all: bool) -> Outcome | None:
    """Append over a roll until the n-th sync fails, then by a new writer. Return None if none failed."""
    with recordings.scratch() as root:
        scene = Scene(root, number, tells_all=tells_all)
        history = scene.history
        for appends in recordings.sample_appends(0)[:5]:
            batch = history.sent(appends)
            try:
                results = scene.store.append_many(appends)
            except StoreIOError:
                break
            history.acked(batch, results)
        else:
            return None
        list(scene.reader.read_all())  # takes in what the device does not have
        assert not scene.append(scene.store, 950), "it continues after a failed sync"
        assert not scene.append(scene.store, 951), "it refuses only once"
        scene.append(scene.other, 952)
        start = len(scene.world.ops)
        for appends in recordings.sample_appends(100)[:3]:
            history.send(scene.reopen(), appends)
        for unsure in [number for number, batch in enumerate(history.batches) if batch.results is None]:
            history.acked(unsure, scene.store.append_many(history.batches[unsure].appends))
        known = all_known(history.batches)
        events = check_reads(scene.reader, known)
        assert check_reads(scene.store, known) == events
        with scene.other as other:
            if scene.append(other, 953):
                known = all_known(history.batches)
        check_reads(scene.reader, known)
        recording = recordings.record(scene.world, history, f"failed sync {number}, told to all: {tells_all}")
        moments = {(start + len(recording.ops)) // 2, len(recording.ops)}
        outcome = explore.power_losses(recording, 2, moments)
        check_recovery(scene.path, known)
        return outcome


def fail_each_sync(tells_all: bool) -> Outcome:
    outcomes: list[Outcome] = []
    for number in range(1, _MOST_SYNCS):
        outcome = fail_a_sync(number, tells_all=tells_all)
        if outcome is None:
            assert outcomes
            return explore.together(outcomes)
        outcomes.append(outcome)
    raise AssertionError("the scenario never ran to its end")


def test_nothing_is_acknowledged_on_top_of_a_failed_sync() -> None:
    outcome = explore.run([(fail_each_sync, (tells_all,)) for tells_all in (True, False)])
    explore.expect(outcome, 50)


def test_a_writer_killed_between_its_failed_sync_and_its_mark_misleads_no_later_one() -> None:
    """The kernel tells nothing to a writer that opens the log later. It must not append after lost frames."""
    with recordings.scratch() as root:
        scene = Scene(root, 99, segment_events=99)
        scene.other.close()
        disk = scene.disk
        assert scene.append(scene.store, 1)
        disk.fail_sync = disk.syncs + 1
        disk.kill_at = disk.steps + 5  # after frame, entries, written mark and sync: the suspect mark
        with pytest.raises(Killed):
            scene.append(scene.store, 2)
        assert [event.stream for event in scene.reader.read_all()] == ["first", "more", "more"]
        with open_store(scene.path, disk=RecordingDisk(scene.world)) as heir:
            assert scene.append(heir, 3)
            known = all_known(scene.history.batches)
            assert [event.position for event in check_reads(heir, known)] == [1, 2, 3]
        recording = recordings.record(scene.world, scene.history, "killed after a failed sync")
        explore.expect(explore.power_losses(recording, 2, {len(recording.ops)}), 1)
        check_recovery(scene.path, known)


def test_a_writer_killed_between_its_failed_sync_and_its_mark_misleads_no_follower() -> None:
    """A follower makes durable what a dead writer left, but does not deliver what only memory has."""
    with recordings.scratch() as root:
        scene = Scene(root, 99, segment_events=99)
        scene.other.close()
        assert scene.append(scene.store, 1)
        scene.disk.fail_sync = scene.disk.syncs + 1
        scene.disk.kill_at = scene.disk.steps + 5
        with pytest.raises(Killed):
            scene.append(scene.store, 2)
        with open_store(scene.path, disk=RecordingDisk(scene.world)) as late:
            assert [event.position for event in late.subscribe(follow=False)] == [1, 2]


@pytest.mark.parametrize("leaves_mark", [False, True], ids=["without its mark", "with its mark"])
def test_a_frame_that_is_still_to_be_synced_hides_no_lost_one_before_it(leaves_mark: bool) -> None:
    """A page of many blocks stays in memory while one is to be written, and Linux writes that block alone."""
    with recordings.scratch() as root:
        scene = Scene(root, 99)
        heir_disk, second_disk = RecordingDisk(scene.world), RecordingDisk(scene.world)
        heir, second = (open_store(scene.path, disk=disk) for disk in (heir_disk, second_disk))
        for store, number in ((heir, 1), (scene.store, 2), (second, 3), (scene.store, 4), (second, 5)):
            assert scene.append(store, number)
        assert scene.store.info().segments == 2, "the heir must open this log after the failed sync"

        def append_beside() -> None:
            second_disk.kill_at = second_disk.steps + 4  # after written mark, frame and entries: the sync
            with pytest.raises(Killed):
                scene.append(second, 7)
            if not leaves_mark:
                scene.disk.kill_at = scene.disk.steps + 1

        scene.disk.during_sync = append_beside
        scene.disk.fail_sync = scene.disk.syncs + 1
        with contextlib.suppress(Killed):
            assert not scene.append(scene.store, 6)
        with heir:
            assert scene.append(heir, 8)
            known = all_known(scene.history.batches)
            assert check_reads(heir, known)[-1].position == 7, "it appended after the lost frame"
        recording = recordings.record(scene.world, scene.history, f"two writers killed, mark: {leaves_mark}")
        explore.expect(explore.power_losses(recording, 2, {len(recording.ops)}), 1)
        check_recovery(scene.path, known)


@pytest.mark.parametrize("tells_all", [True, False])
def test_a_failed_sync_is_seen_by_the_other_writers(tells_all: bool) -> None:
    with recordings.scratch() as root:
        scene = Scene(root, 1, tells_all=tells_all)
        scene.append(scene.store, 1)
        assert not scene.append(scene.other, 2), "it acknowledged after another writer's failed sync"
        assert scene.append(scene.reopen(), 3)
        with scene.other as other, open_store(scene.path) as fresh:
            assert not scene.append(other, 4), "only a writer that was opened again may continue"
            assert scene.append(fresh, 5)
            check_reads(fresh, all_known(scene.history.batches))


@pytest.mark.parametrize("size", [1, 120, 500], ids=["shorter", "equal", "longer"])
def test_a_reader_of_what_a_failed_sync_lost_then_reads_what_replaced_it(size: int) -> None:
    with recordings.scratch() as root:
        scene = Scene(root, 1, tells_all=False, segment_events=99)
        history = scene.history
        lost = history.sent([("lost", [event(1, {"x": "x" * 120})])])
        with pytest.raises(StoreIOError):
            scene.store.append_many(history.batches[lost].appends)
        for store in (scene.reader, scene.other):
            assert [event.stream for event in store.read_all()] == ["first", "lost"]
        history.send(scene.reopen(), [("next", [event(2, {"x": "y" * size})])])
        history.send(scene.other, [("next", [event(3)])])
        events = check_reads(scene.reader, all_known(history.batches))
        assert [event.stream for event in events] == ["first", "next", "next"]
        for store in (scene.store, scene.other):
            assert check_reads(store, all_known(history.batches)) == events
        check_recovery(scene.path, all_known(history.batches))


def test_a_mark_of_suspicion_outlives_its_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = []
    monkeypatch.setattr(RecordingDisk, "drop_cache", lambda _, file, offset=0: dropped.append(file.path))
    with recordings.scratch() as root:
        scene = Scene(root, 1)
        assert not scene.append(scene.store, 1)
        assert not dropped
        assert scene.append(scene.reopen(), 2)
        assert len(dropped) == 1, "the next writer must read the device, not memory"
        assert scene.append(scene.reopen(), 3)
        assert len(dropped) == 1
