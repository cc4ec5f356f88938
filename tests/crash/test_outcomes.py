"""One table: the outcome of each damage for a reader, verify, the next writer, repair and salvage."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest

from evlog.errors import EvlogError
from evlog.files.check.repair import repair_store
from evlog.files.check.salvage import salvage_store
from evlog.files.check.verify import verify_store
from tests.crash import recordings
from tests.crash.check import materialise, open_store
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
    segment,
    sound_store,
)
from tests.crash.history import event
from tests.crash.states import State

pytestmark = pytest.mark.usefixtures("no_writer_at_work")

LOG = segment(ACTIVE, "log")
FIRST_LOG = segment(SEALED[0], "log")
LOCK = f"{STORE}/lock"
EVENTS = 15


class Outcome(NamedTuple):
    """What some damage leads to.

    `read` is how many events a reader gets before an error, None for all and no error; `verify` the verdict,
    "ok", "note" or "damage"; `append` whether the next writer appends; `repaired` whether verify is ok after
    a repair; `salvaged` how many events a salvage saves.
    """

    read: int | None
    verify: str
    append: bool
    repaired: bool
    salvaged: int


HEALS = Outcome(None, "note", append=True, repaired=True, salvaged=EVENTS)
FINE = Outcome(None, "ok", append=True, repaired=True, salvaged=EVENTS)


def frame(number: int, within: int) -> Callable[[bytes], bytes]:
    return lambda log: flip(log, frame_offsets(log)[number] + within)


Damage = Callable[[bytes], bytes | None]
TABLE: dict[str, tuple[str, Damage, Outcome]] = {
    "nothing": (LOG, lambda log: log, FINE),
    # the end of the log: never acknowledged
    "half a frame after the last": (LOG, lambda log: log + log[64:130], HEALS),
    "junk after the last frame": (LOG, lambda log: log + b"\xa5\x00junk" * 90, HEALS),
    "zeros after the last frame": (LOG, lambda log: log + bytes(700), FINE),
    # acknowledged frames of the active log
    "the last frame's body": (LOG, lambda log: flip(log, -1), Outcome(13, "damage", False, False, 14)),
    "the last frame cut off": (LOG, lambda log: log[:-1], Outcome(13, "damage", False, False, 14)),
    "a frame before others": (LOG, frame(0, 90), Outcome(11, "damage", False, False, 14)),
    "a header before others": (LOG, frame(0, 9), Outcome(11, "damage", True, False, 15)),
    # a sealed log
    "a sealed log missing": (FIRST_LOG, lambda _: None, Outcome(0, "damage", True, False, 11)),
    "a sealed log empty": (FIRST_LOG, lambda _: b"", Outcome(0, "damage", True, False, 11)),
    "a sealed log's header": (FIRST_LOG, lambda log: flip(log, 20), Outcome(0, "damage", True, False, 15)),
    "a sealed frame": (FIRST_LOG, lambda log: flip(log, -1), Outcome(3, "damage", True, False, 14)),
    # derived files
    **{
        f"{suffix} {name}": (segment(SEALED[0], suffix), damage, HEALS)
        for suffix in ("offsets", "streams", "types", "ids")
        for name, damage in {
            "missing": lambda _: None,
            "empty": lambda _: b"",
            "cut": lambda index: index[:-3],
            "flipped": lambda index: flip(index, -1),
            "lengthened": lambda index: index + bytes(40),
        }.items()
    },
    "the active .offsets missing": (segment(ACTIVE, "offsets"), lambda _: None, HEALS),
    "the active .offsets flipped": (segment(ACTIVE, "offsets"), lambda index: flip(index, 70), HEALS),
    # the small files
    "marks missing": (DURABLE, lambda _: None, HEALS),
    "marks flipped": (DURABLE, lambda marks: flip(marks, 9), HEALS),
    "the lock missing": (LOCK, lambda _: None, HEALS),
    "the manifest flipped": (MANIFEST, lambda raw: flip(raw, 40), Outcome(0, "damage", False, False, 15)),
    "the manifest missing": (MANIFEST, lambda _: None, Outcome(0, "damage", False, False, 15)),
    # files that the manifest does not name
    "a foreign file": (f"{STORE}/segments/.DS_Store", lambda _: b"x", HEALS._replace(repaired=True)),
    "a half written index": (f"{STORE}/segments/x.0badcafe.tmp", lambda _: b"x", HEALS),
    "a half written segment": (f"{STORE}/segments/{1:020d}.7.log", lambda _: b"x", HEALS),
}


def place(root: str, files: Files) -> str:
    path = materialise(State(files, DIRECTORIES), root)
    if MANIFEST in files:
        os.utime(f"{root}/{MANIFEST}", (0, 0))  # no writer is building indexes now
    return path


@pytest.mark.parametrize("name", TABLE)
def test_this_damage_has_that_outcome(name: str) -> None:
    path, damage, outcome = TABLE[name]
    files = dict(sound_store()[0].files)
    damaged = damage(files.pop(path, b""))
    if damaged is not None:
        files[path] = damaged
    found = Outcome(read(files), verdict(files), append(files), repair(files), salvage(files))
    assert found == outcome


def read(files: Files) -> int | None:
    count = 0
    with recordings.scratch() as root:
        try:
            with open_store(place(root, files)) as store:
                for _ in store.read_all():
                    count += 1
        except EvlogError:
            return count
    return None if count == EVENTS else count


def verdict(files: Files) -> str:
    with recordings.scratch() as root:
        report = verify_store(place(root, files))
    return "damage" if not report.ok else "note" if report.findings else "ok"


def append(files: Files) -> bool:
    with recordings.scratch() as root:
        try:
            with open_store(place(root, files)) as store:
                return store.append("new", [event(77)]).first_position == EVENTS + 1
        except EvlogError:
            return False


def repair(files: Files) -> bool:
    with recordings.scratch() as root:
        return repair_store(place(root, files)).report.ok


def salvage(files: Files) -> int:
    with recordings.scratch() as root:
        report = salvage_store(place(root, files), f"{root}/out")
        assert verify_store(f"{root}/out").findings == ()
        return report.events
