"""Power losses on the running kernel's own file systems: `python -m tests.crash.file_systems --minutes N`.

The model of a disk in model.py says what a file system may lose. Here the file systems say it themselves. A
scenario runs on a file system over a recorded device (block_device.py). Then images are made of what the
device may have had when the power failed, mounted, so that the file system recovers, and the stores in them
are checked as after a crash in the model.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

from evlog.errors import StoreIOError
from evlog.files.disk.files import DISK, Disk, WriteFile
from evlog.files.log.manifest_file import read_manifest
from evlog.store import EventStore
from evlog.testing.base import in_threads
from tests.crash import compaction, recordings, test_redaction
from tests.crash.block_device import (
    Operation,
    RecordedDevice,
    mounted,
    read_record,
    recorded_device,
    run,
    why_not,
)
from tests.crash.check import check_recovery, open_store
from tests.crash.explore import Outcome
from tests.crash.history import Append, Batch, History, Knowledge, event
from tests.crash.recordings import scratch

_REFUSED: Final = 9  # the exit code of a writer whose sync failed


class Kind(NamedTuple):
    """A file system, how it is mounted, and the sectors of its device, which are never torn.

    `image_bytes`: the smallest that its mkfs accepts, or a little more.
    """

    name: str
    image_bytes: int
    options: Sequence[str] = ()
    sector_bytes: int = 512

    @property
    def program(self) -> str:
        return self.name.split()[0]


KINDS: Final = (
    Kind("ext4", 32 << 20),
    Kind("ext4 data=writeback", 32 << 20, options=("data=writeback",)),
    Kind("xfs", 300 << 20),
    # Its superblock takes a page, which no smaller sector may tear.
    Kind("btrfs", 120 << 20, sector_bytes=4096),
)


Check = Callable[[str, Knowledge], None]


class Ran(NamedTuple):
    """What a scenario has done on a file system, and what must be true after a power loss.

    `since`: the note after which the power fails; the check takes for granted what was done before it.
    """

    batches: list[Batch]
    check: Check = check_recovery
    since: str | None = None


Scenario = Callable[[str, RecordedDevice], Ran]


@dataclass
class Recorded:
    """A scenario that has run on a file system.

    Attributes:
        start: the image of the empty file system.
        operations: what the device was asked to do until the scenario ended.
        first: how many of the operations are done before the power fails.
    """

    kind: Kind
    start: Path
    operations: list[Operation]
    first: int
    ran: Ran
    digests: set[bytes] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


@contextmanager
def recorded(kind: Kind, scenario: Scenario) -> Iterator[Recorded]:
    """Run a scenario on a new file system."""
    with scratch() as root:
        start, image, record = (Path(root, name) for name in ("start", "image", "record"))
        with image.open("wb") as file:
            file.truncate(kind.image_bytes)
        run(f"mkfs.{kind.program}", "-q", str(image))
        _copy(image, start)
        with (
            recorded_device(image, record, kind.sector_bytes) as device,
            mounted(device.path, Path(root, "mounted"), kind.program, kind.options) as directory,
        ):
            ran = scenario(f"{directory}/store", device)
            device.note("end", 0)
        operations = read_record(record)
        first = 0 if ran.since is None else operations.index(_note(ran.since))
        yield Recorded(kind, start, operations[: operations.index(_note("end"))], first, ran)


def power_losses(done: Recorded, most: int, seed: int) -> Outcome:
    """Fail the power at up to `most` moments; lose what was not flushed in up to four ways."""
    dice = random.Random(seed)
    all_moments = range(done.first, len(done.operations) + 1)
    moments = sorted(dice.sample(all_moments, min(most, len(all_moments))))
    known, at = Knowledge(done.ran.batches), 0
    durable = done.start.with_name("durable")
    _copy(done.start, durable)
    pending: list[Operation] = []
    for moment in moments:
        for operation in done.operations[at:moment]:
            if operation.kind == b"w":
                pending.append(operation)
            elif operation.kind == b"f":
                _write(durable, pending)
                pending = []
            else:
                _take_in(known, operation.data.decode())
        at = moment
        for kept in _survivors(pending, dice, done.kind.sector_bytes):
            _check_state(done, known, moment, durable, kept)
    return Outcome(done.digests, done.failures)


def _survivors(pending: list[Operation], dice: random.Random, sector_bytes: int) -> Iterator[list[Operation]]:
    """Yield what the device may have of the writes after its last flush: nothing, all, and some sectors."""
    yield []
    if pending:
        yield pending
    if len(pending) > 1 or any(len(write.data) > sector_bytes for write in pending):
        for share in (0.2, 0.8):
            yield [
                Operation(b"w", write.offset + begin, write.data[begin : begin + sector_bytes])
                for write in pending
                for is_whole, keeps in [(dice.random() < 0.5, dice.random() < share)]
                for begin in range(0, len(write.data), sector_bytes)
                if (keeps if is_whole else dice.random() < share)
            ]


def _check_state(done: Recorded, known: Knowledge, moment: int, durable: Path, kept: list[Operation]) -> None:
    digest = _digest(durable, kept, known)
    if digest in done.digests:
        return
    done.digests.add(digest)
    # A new file each time: mount would take a loop device that this one still has, with pages of its content.
    image = durable.with_name(f"crashed-{len(done.digests)}")
    _copy(durable, image)
    _write(image, kept)
    kind = done.kind
    try:
        with mounted(image, durable.with_name("mounted"), kind.program, kind.options) as directory:
            done.ran.check(f"{directory}/store", known)
    except Exception:  # noqa: BLE001 - any error is a finding
        done.failures.append(f"{kind.name}, power loss after {moment}:\n{traceback.format_exc()}")
    image.unlink()


def _digest(durable: Path, kept: list[Operation], known: Knowledge) -> bytes:
    knows = len(known.acked), known.delivered, known.handled, known.parked
    digest = blake2b(f"{durable.stat().st_mtime_ns} {knows}".encode(), digest_size=16)
    for write in kept:
        digest.update(write.offset.to_bytes(8, "little") + write.data)
    return digest.digest()


def _take_in(known: Knowledge, note: str) -> None:
    what, _, number = note.partition(" ")
    if what == "created":
        known.created = True
    elif what in {"delivered", "handled", "parked"}:
        setattr(known, what, int(number))
    elif what in {"sent", "acked"}:
        (known.sent if what == "sent" else known.acked).append(int(number))


def _note(what: str) -> Operation:
    return Operation(b"n", 0, f"{what} 0".encode())


def _copy(source: Path, target: Path) -> None:
    run("cp", "--sparse=always", str(source), str(target))


def _write(image: Path, writes: Sequence[Operation]) -> None:
    fd = os.open(image, os.O_WRONLY)
    for write in writes:
        os.pwrite(fd, write.data, write.offset)
    os.close(fd)


def _appends(path: str, device: RecordedDevice) -> Ran:
    """Append over many rolls; open the store again in between, also without closing it."""
    history = History(device)
    left_open = []
    with open_store(path, create=True):
        device.note("created", 0)
    for first in range(0, 120, 40):
        with open_store(path) as store:
            for appends in recordings.sample_appends(first):
                history.send(store, appends)
        store = open_store(path)
        left_open.append(store)
        for appends in recordings.sample_appends(first + 20)[:5]:
            history.send(store, appends)
    for store in left_open:
        store.close()
    return Ran(history.batches)


def _threads(path: str, device: RecordedDevice) -> Ran:
    """Append by several threads with a store of their own each: one writes for the others."""
    history = History(device)
    with open_store(path, create=True, segment_events=40):
        device.note("created", 0)

    def write(number: int) -> None:
        with open_store(path) as store:
            for turn in range(12):
                first = 1000 * number + 10 * turn
                history.send(store, [(f"s-{number}", [event(first + part) for part in range(1 + turn % 3)])])

    in_threads([partial(write, number) for number in range(4)])
    return Ran(history.batches)


def _compaction(path: str, device: RecordedDevice) -> Ran:
    """Compact, while another store object appends."""
    history = History(device)
    with open_store(path, create=True, segment_events=compaction.SEGMENT_EVENTS) as store:
        compaction.fill(store, compress=False)
        facts = compaction.facts_of(store, compress=False)
    device.note("filled", 0)
    with open_store(path) as store, open_store(path) as other:
        compaction.compact_beside(store, other, history, compress=False)
    facts = facts._replace(segments=tuple(read_manifest(path).segments))
    return Ran(history.batches, partial(_check_compaction, facts), "filled")


def _check_compaction(facts: compaction.Facts, path: str, known: Knowledge) -> None:
    compaction.check_left(path, facts, known, thorough=True)


class _DeadlyDisk(Disk):
    """Ends the process when a sync fails, before it can do anything about that."""

    def sync(self, file: WriteFile) -> None:
        try:
            super().sync(file)
        except StoreIOError:
            os._exit(_REFUSED)


def _refused_writes(path: str, device: RecordedDevice) -> Ran:
    """Fail syncs of frames: the kernel keeps the pages in memory, and takes them for written.

    Of the writers, some are killed at once, and some are followed by one that syncs nothing: its frame is in
    the same page, which the kernel then keeps. Others continue before and after them. What a follower was
    given stays.
    """
    history = History(device)
    delivered: list[bytes] = []
    bad = "refused by the device "
    with open_store(path, create=True, segment_events=999, segment_bytes=1 << 20):
        device.note("created", 0)
    for turn in range(12):

        def send(store: EventStore, number: int, size: int = 1, *, turn: int = turn) -> None:
            history.send(store, [(f"s-{number}", [event(100 * turn + number, {"x": "x" * size})])])

        with open_store(path) as other, open_store(path, sync="none") as lazy:
            lost = history.sent([("lost", [event(100 * turn, {"x": bad * (20 + 90 * (turn % 4))})])])
            lazy.append_many(history.batches[history.sent([("lazy", [event(100 * turn + 1)])])].appends)
            send(other, 2)
            for number in range(turn % 3):
                send(other, 3 + number, 1500)
            with device.refusing(bad.encode()):
                _fail(path, history.batches[lost].appends, killed=turn % 2 == 1)
            if turn % 4 > 1:
                with contextlib.suppress(StoreIOError):
                    lazy.append_many(
                        history.batches[history.sent([("lazy", [event(100 * turn + 7)])])].appends
                    )
                continue  # what it says is acknowledged is not on the device, and a follower believes it
            with contextlib.suppress(StoreIOError):
                send(other, 8)
        with open_store(path) as late:
            delivered += [found.id_bytes for found in late.subscribe(after=len(delivered), follow=False)]
        device.note("delivered", len(delivered))
    return Ran(history.batches, partial(_check_followed, delivered))


def _check_followed(delivered: list[bytes], path: str, known: Knowledge) -> None:
    if known.delivered:
        with open_store(path) as store:
            found = [event.id_bytes for event in store.read_all(limit=known.delivered)]
        assert found == delivered[: known.delivered], "a follower was given what is not there"
    check_recovery(path, known)


def _fail(path: str, appends: Sequence[Append], *, killed: bool) -> None:
    """Append in a process of its own, whose device refuses that; end it before or after it has noted that."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            open_store(path, disk=_DeadlyDisk() if killed else DISK).append_many(appends)
            code = 0
        except StoreIOError:
            code = _REFUSED
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == _REFUSED, "it acknowledged an event that the device refused"


def _subscription(path: str, device: RecordedDevice) -> Ran:
    """Run a subscription, also over events that their writer has not synced; park some of them."""
    history = History(device)
    parked: list[int] = []
    with open_store(path, create=True, segment_events=9), open_store(path, sync="none") as lazy:
        device.note("created", 0)
        for turn in range(8):
            with open_store(path) as store:
                for number in range(1 + turn % 3):
                    history.send(store, [("s", [event(10 * turn + number)])])
                unsynced = history.sent([("lazy", [event(10 * turn + 5)])])
                lazy.append_many(history.batches[unsynced].appends)
                with store.subscribe("reader", follow=False, after=0 if turn == 0 else None) as run:
                    for found in run:
                        device.note("handled", found.position)
                        if found.position % 4 == 0:
                            run.park(found, "not today")
                            parked.append(found.position)
                            device.note("parked", len(parked))
    return Ran(history.batches, partial(_check_subscription, parked))


def _check_subscription(parked: list[int], path: str, known: Knowledge) -> None:
    if known.created:
        with open_store(path) as store:
            infos = [info for info in store.subscriptions() if info.name == "reader"]
            assert infos or not known.parked, "the subscription is gone"
            if infos:
                found = [event.position for event in store.parked("reader")]
                assert found[: known.parked] == parked[: known.parked], "a parked event is gone"
                with store.subscribe("reader", follow=False) as run:
                    continued = [event.position for event in run]
                assert continued == list(range(infos[0].position + 1, store.head + 1))
                assert infos[0].position <= known.handled
    check_recovery(path, known)


def _redaction(path: str, device: RecordedDevice) -> Ran:
    """Redact events and erase them by compactions."""
    with open_store(path, create=True) as store:
        device.note("created", 0)
        views = [test_redaction.view(store)]
        for number, step in enumerate(test_redaction.STEPS):
            device.note("sent", number)
            step(store)
            device.note("acked", number)
            views.append(test_redaction.view(store))
    return Ran([], partial(_check_redaction, views))


def _check_redaction(views: list[test_redaction.View], path: str, known: Knowledge) -> None:
    test_redaction.check(path, known, views, thorough=True)


SCENARIOS: Final[dict[str, Scenario]] = {
    "appends": _appends,
    "threads": _threads,
    "compaction": _compaction,
    "refused writes": _refused_writes,
    "subscription": _subscription,
    "redaction": _redaction,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.file_systems", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (default 10)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; left out, by the clock")
    parser.add_argument("--most", type=int, default=40, help="moments of each recording (default 40)")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    end = time.monotonic() + 60 * arguments.minutes
    states = 0
    kinds = []
    for kind in KINDS:
        if (reason := why_not(kind.program)) is None:
            kinds.append(kind)
        else:
            print(f"{kind.name} is left out: {reason}")
    while kinds:
        for kind, (name, scenario) in product(kinds, SCENARIOS.items()):
            with recorded(kind, scenario) as done:
                outcome = power_losses(done, arguments.most, seed)
            if outcome.failures:
                print(f"seed {seed}: {len(outcome.failures)} failed, the first:\n{outcome.failures[0]}")
                return 1
            states += len(outcome.digests)
            print(f"seed {seed}: {kind.name}, {name}: {len(outcome.digests)} states", flush=True)
        print(f"seed {seed}: {states} states so far, all well", flush=True)
        seed += 1
        if time.monotonic() > end:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
