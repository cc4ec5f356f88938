"""Named subscriptions: beginning a run, handling events until all is well, looking after what there is.

A name stands for a filter and a checkpoint. One run of it at a time; the next goes on where it ended. Events
are delivered at least once, in order: a checkpoint passes an event only after it was acknowledged or parked.
How the log is followed, and what the files hold, is for the modules below to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from evlog.errors import CorruptionError, EvlogError, InvalidArgument, SubscriptionNotFound
from evlog.files.disk.files import Disk
from evlog.files.follow.checkpoint_file import (
    Checkpoint,
    Filter,
    ParkedEvent,
    SubscriptionFiles,
    check_subscription_name,
    list_names,
)
from evlog.files.log.log import Log
from evlog.files.log.read import Selection, read_log
from evlog.model.events import Event
from evlog.subscriptions.run import Subscription, position_before

Handler = Callable[[Event], object]
OnRetry = Callable[[Exception, int, float], object]
FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 10.0


class Failure(NamedTuple):
    """The last error of a handler that went on failing, and how often it was called."""

    error: Exception
    attempts: int


class SubscriptionInfo(NamedTuple):
    """A named subscription: what it is about, how far it is, and how far behind."""

    name: str
    filter: Filter
    position: int  # scanned up to and with it
    lag_events: int  # positions behind the end of the log, matching or not
    lag_seconds: float  # the age of the first event that was not scanned; 0 if all were
    parked: int
    running: bool
    saved_us: int  # when the checkpoint was saved, µs since 1970


class ReplayResult(NamedTuple):
    """What came of the parked events: handled and off the list, failed again, or gone from the log."""

    succeeded: int
    failed: int
    gone: int


def begin(
    log: Log,
    name: str | None,
    filter: Filter,
    after: int | None,
    since_us: int | None,
    *,
    follow: bool,
    timeout_seconds: float | None,
    disk: Disk,
) -> Subscription:
    """Begin a run. The arguments and errors are those of `EventStore.subscribe`."""
    if name is None:
        start, since_us = _start(log, after, since_us)
        return Subscription(log, filter, start, since_us, follow, timeout_seconds, disk)
    files = _files(log, name, disk)
    files.lock()
    try:
        known = files.read()
        if known is None:
            start, since_us = _start(log, after, since_us)
            files.create_locked(Checkpoint(start, filter))
        else:
            _check_known(log, files, known, filter)
            start, since_us = known.position, None
        return Subscription(log, filter, start, since_us, follow, timeout_seconds, disk, files)
    except BaseException:
        files.unlock()
        raise


def consume(subscription: Subscription, handler: Handler, *, retries: int, park: bool) -> None:
    """Handle every event of the run. The arguments and errors are those of `EventStore.consume`."""
    for event in subscription:
        failure = attempt(handler, event, retries)
        if failure is None:
            continue
        if not park:
            raise failure.error
        subscription.park(event, describe_error(failure.error), failure.attempts)


def attempt(handler: Handler, event: Event, retries: int, on_retry: OnRetry | None = None) -> Failure | None:
    """Call the handler with the event until it returns, with growing pauses, `retries` times at most.

    Args:
        retries: the failures that are borne, 1 where less is given.
        on_retry: told of each failure but the last: the error, its number, and the pause in seconds.

    Returns:
        None if it returned in the end, else the last failure.
    """
    pause_seconds, attempts = FIRST_RETRY_SECONDS, 0
    while True:
        try:
            handler(event)
        except Exception as error:  # noqa: BLE001 - the caller says what becomes of it
            attempts += 1
            if attempts >= retries:
                return Failure(error, attempts)
            if on_retry is not None:
                on_retry(error, attempts, pause_seconds)
        else:
            return None
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, LAST_RETRY_SECONDS)


def list_all(log: Log, disk: Disk) -> list[SubscriptionInfo]:
    """Every subscription, by name."""
    found = (_maybe_describe(log, name, disk) for name in list_names(log.store))
    return [info for info in found if info is not None]


def describe(log: Log, name: str, disk: Disk) -> SubscriptionInfo:
    """One subscription.

    Raises:
        SubscriptionNotFound: there is none of this name.
    """
    info = _maybe_describe(log, name, disk)
    if info is None:
        raise SubscriptionNotFound(name)
    return info


def reset(log: Log, name: str, to: int, disk: Disk) -> None:
    """Have the next run begin behind position `to`; durable when this returns."""
    files = _lock_known(log, name, disk)
    try:
        known = _read_known(files)
        if not 0 <= to <= log.head:
            raise InvalidArgument(f"cannot reset to position {to}; give one from 0 to {log.head}")
        files.save_locked(known._replace(position=to))
        files.sync_locked()
    finally:
        files.unlock()


def delete(log: Log, name: str, disk: Disk) -> None:
    """Forget the subscription and all it parked; durable when this returns."""
    files = _lock_known(log, name, disk)
    try:
        files.remove_locked()
    finally:
        files.unlock()


def parked(log: Log, name: str, disk: Disk) -> list[ParkedEvent]:
    """What is parked under the name, in the order in which it was."""
    files = _files(log, name, disk)
    _read_known(files)
    return files.parked()


def replay(log: Log, name: str, handler: Handler, disk: Disk) -> ReplayResult:
    """Run the handler over the parked events; those it returns from leave the list, one by one."""
    files = _lock_known(log, name, disk)
    succeeded = failed = gone = 0
    try:
        _read_known(files)
        for place in files.parked():
            event = maybe_read_event(log, place.position)
            if event is None:
                gone += 1
                continue
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is kept with the event
                files.park_locked(event, describe_error(error), place.attempts + 1)
                failed += 1
            else:
                files.unpark_locked(place.position)
                succeeded += 1
    finally:
        files.unlock()
    return ReplayResult(succeeded, failed, gone)


def maybe_read_event(log: Log, position: int) -> Event | None:
    """The event at a position; None where there is none any more."""
    return next(read_log(log, Selection(position, position), reverse=False, limit=1), None)


def _files(log: Log, name: str, disk: Disk) -> SubscriptionFiles:
    return SubscriptionFiles(log.store, log.manifest.store_id, check_subscription_name(name), disk)


def _lock_known(log: Log, name: str, disk: Disk) -> SubscriptionFiles:
    """The locked files of a subscription that has a checkpoint, sound or not."""
    files = _files(log, name, disk)
    if name not in list_names(log.store):  # nothing is made for a name that was only mistyped
        raise SubscriptionNotFound(name)
    files.lock()
    return files


def _read_known(files: SubscriptionFiles) -> Checkpoint:
    known = files.read()
    if known is None:
        raise SubscriptionNotFound(files.name)
    return known


def _maybe_describe(log: Log, name: str, disk: Disk) -> SubscriptionInfo | None:
    files = _files(log, name, disk)
    known = files.read()
    if known is None:
        return None
    head = log.head
    lag_seconds = 0.0
    if known.position < head:
        following = next(read_log(log, Selection(known.position + 1, head), reverse=False, limit=1), None)
        if following is not None:
            lag_seconds = max(0.0, time.time() - following.time_us / 1e6)
    return SubscriptionInfo(
        name,
        known.filter,
        known.position,
        max(0, head - known.position),
        lag_seconds,
        len(files.parked()),
        files.is_running(),
        known.time_us,
    )


def _start(log: Log, after: int | None, since_us: int | None) -> tuple[int, int | None]:
    """Where a run without a checkpoint begins, and the moment if it has yet to come."""
    if since_us is None:
        return after or 0, None
    before = position_before(log, since_us)
    return max(after or 0, before), since_us if before == log.head else None


def _check_known(log: Log, files: SubscriptionFiles, known: Checkpoint, filter: Filter) -> None:
    if known.filter != filter:
        raise InvalidArgument(
            f"subscription {files.name!r} is about {_say(known.filter)}, not {_say(filter)}; "
            "use its own filter, another name, or delete it first"
        )
    if known.position > log.head:
        raise CorruptionError(
            files.path,
            None,
            f"the subscription has scanned up to position {known.position}, and the log ends at {log.head}: "
            "was it restored from an older copy? Reset the subscription",
        )


def _say(filter: Filter) -> str:
    parts = [f"{name} {value!r}" for name, value in filter._asdict().items() if value is not None]
    return ", ".join(parts) or "all events"


def describe_error(error: Exception) -> str:
    """An error as it is kept with a parked event; what evlog raises says by its text alone what is wrong."""
    if isinstance(error, EvlogError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
