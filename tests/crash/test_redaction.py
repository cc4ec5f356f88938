"""Redactions through crashes: an event is visible or redacted, never half, and at last its bytes are removed.

A scenario is recorded; after disk calls the process is killed or the power fails. What a user sees then must
be what was visible after the last acknowledged step, or after the step that was running. Every 11th disk call
is tried; EVLOG_TEST_STRIDE=1 tries all of them, which takes minutes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final
from uuid import UUID

import pytest

import evlog
from evlog import EventStore
from evlog.files.backup import backup_store
from evlog.files.disk import files
from tests.crash import explore, recordings
from tests.crash.check import open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.history import Knowledge, event
from tests.crash.states import crash_states
from tests.crash.steps import crashes, record_steps

STRIDE: Final = explore.step_of(11)

Step = Callable[[EventStore], object]
View = tuple[object, ...]

REDACTED: Final = (1, 4, 2, 7, 9)
COMPACTIONS: Final = (3, 9)  # which of the steps; the first one erases two events


def id_of(number: int) -> UUID:
    """Return the id of the test's event of this number."""
    return evlog.idempotency_id(f"event {number}")


def secret(number: int) -> bytes:
    """Return data that is not found anywhere else."""
    return b"secret %d does not last" % number


def hidden(*numbers: int) -> list[evlog.NewEvent]:
    return [event(number, secret(number), content_type="binary") for number in numbers]


# Each step may be done twice in a row: after a crash it is not known whether it was done.
STEPS: Final[tuple[Step, ...]] = (
    lambda store: store.append("s", hidden(1, 2, 3)),
    lambda store: store.append_many([("t-1", hidden(4, 5)), ("u", hidden(6))]),
    lambda store: store.redact(id_of(1), id_of(4), reason="first"),
    lambda store: store.compact(),
    lambda store: store.append("s", hidden(7)),
    lambda store: store.redact(id_of(2), reason="second"),
    lambda store: store.append("u", hidden(8, 9)),
    lambda store: store.redact(id_of(7), id_of(9), reason="third"),
    lambda store: store.set_retention("t-1", before=2),
    lambda store: store.compact(),
)


def view(store: EventStore) -> View:
    """Return what a user can see: each event with its content or without any, and why."""
    shown = tuple(
        (event.stream, event.version, event.redacted or event.data)
        for stream in ("s", "t-1", "u")
        for event in store.read(stream)
    )
    for _, _, content in shown:
        assert content is True or content.startswith(b"secret ")
    made = tuple((made.reason, tuple(id for _, id, _ in made.events)) for made in store.redactions())
    return shown, made, store.retention("t-1")


def found_in(path: str) -> list[int]:
    """Return the events whose data is in a file of the store."""
    found = b""
    for folder, _, names in os.walk(path):
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:
                found += file.read()
    return [number for number in range(1, 10) if secret(number) in found]


def check_erased(path: str) -> None:
    """Check that no file holds what was redacted, and that the files hold everything else."""
    assert found_in(path) == [number for number in range(1, 10) if number not in REDACTED]


def check(path: str, known: Knowledge, views: list[View], thorough: bool) -> None:
    if not known.created:
        return
    compactions = sum(number in COMPACTIONS for number in known.acked)
    erased = ((), REDACTED[:2], REDACTED)[compactions]
    assert not set(erased).intersection(found_in(path)), "what was erased is in a file again"
    with open_store(path) as store:
        assert view(store) in views[len(known.acked) : len(known.sent) + 1]
        assert not thorough or store.verify().ok
        for step in STEPS[len(known.acked) :]:
            step(store)
        assert view(store) == views[-1]
        with open_store(path) as fresh:
            assert view(fresh) == views[-1]
            fresh.compact()  # the last acknowledged step may have been a redaction
            assert view(fresh) == view(store) == views[-1]
            assert not thorough or fresh.verify().ok
    check_erased(path)


def test_whatever_a_crash_leaves_an_event_is_visible_or_redacted_and_then_erased() -> None:
    recording, views = record_steps("redaction", STEPS, view, check_erased)
    jobs: list[explore.Job] = [
        (crashes, (recording, views, share[::STRIDE], check, 997, 2))
        for share in explore.shares(recording, 1)
    ]
    explore.expect(explore.run(jobs), 500 // STRIDE)


def back_up(source: EventStore, path: str, disk: RecordingDisk) -> None:
    backup_store(source.path, path, links=False, disk=disk)


def mirror(source: EventStore, path: str, disk: RecordingDisk) -> None:
    with open_store(path, create=True, disk=disk) as copy:
        evlog.mirror(source, copy)


@pytest.mark.parametrize("copy", [back_up, mirror])
def test_no_power_loss_brings_what_was_erased_back_to_a_copy(
    copy: Callable[[EventStore, str, RecordingDisk], None], root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_copy_range", lambda *_: 0)  # the test disk must see what is copied
    world = World(root)
    with recordings.scratch() as elsewhere, open_store(f"{elsewhere}/store", create=True) as source:
        for _ in range(2):
            source.append("s", hidden(1, 2, 3))
            copy(source, f"{root}/above/store", RecordingDisk(world))
            source.redact(id_of(1), reason="asked for")
            source.compact()
    states = list(crash_states(world.now, random.Random(1), 50))
    assert len(states) > 1
    for state in states:
        content = b"".join(state.files.values())
        assert secret(1) not in content
        assert secret(2) in content
