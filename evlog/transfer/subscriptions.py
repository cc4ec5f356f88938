"""Copying what named subscriptions keep: their filters, checkpoints and parked events.

An identical mirror has the source's subscriptions and no other. A subscription that is ahead of the copied
events is copied next time, because a checkpoint must not pass an event that the destination does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evlog.model.events import Event

if TYPE_CHECKING:
    from evlog.engine import CheckpointStore, Engine
    from evlog.model.checkpoints import ParkedEvent

LOCK_NAME = "$mirror"
"""The name whose lock a mirror holds in its destination; it never has a checkpoint."""


def copy_subscriptions(source: Engine, destination: Engine, head: int) -> int:
    """Make the destination's subscriptions those of the source, durably; return how many there are.

    Args:
        head: up to where the source was copied.
    """
    names = source.checkpoint_names()
    for name in names:
        _copy(source.checkpoint(name), destination.checkpoint(name), head)
    for name in set(destination.checkpoint_names()).difference(names):
        place = destination.checkpoint(name)
        place.acquire()
        try:
            place.delete()
        finally:
            place.release()
    return len(names)


def _copy(source: CheckpointStore, destination: CheckpointStore, head: int) -> None:
    known = source.load()
    parked = {each.position: each for each in source.parked()}  # after the checkpoint that may pass them
    if known is None or known.position > head:
        return
    copied = destination.load()
    if copied is not None and copied[:3] == known[:3] and _are_copied(destination, parked):
        return
    destination.acquire()
    try:
        if copied is None:
            destination.create(known)
        # Parked events first: the checkpoint must not pass one that is not kept.
        before = {each.position: each for each in destination.parked()}
        for position, each in parked.items():
            if position not in before or before[position][5:7] != each[5:7]:
                destination.park(_event_of(each), each.error, each.attempts)
        destination.save(known)
        for position in before.keys() - parked.keys():
            destination.unpark(position)
        destination.sync()
    finally:
        destination.release()


def _are_copied(destination: CheckpointStore, parked: dict[int, ParkedEvent]) -> bool:
    return [each[:7] for each in destination.parked()] == [each[:7] for each in parked.values()]


def _event_of(parked: ParkedEvent) -> Event:
    """Return an event with the fields that parking keeps: the event itself may have been removed."""
    place = (parked.position, parked.version, parked.stream, parked.type, parked.id.bytes)
    return Event((*place, parked.time_us, 0, b"", None))
