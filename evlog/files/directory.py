"""Functions for a store that is not open, also if it is too damaged to be opened."""

from __future__ import annotations

import os

from evlog.files.format.paths import check_path, manifest_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.engine import Progress
    from evlog.files.check.repair import RepairReport
    from evlog.files.check.salvage import SalvageReport
    from evlog.model.reports import Backup, VerifyReport


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a store in the directory."""
    return os.path.lexists(manifest_path(check_path(path)))


def wait_for_store(path: str | os.PathLike[str], timeout_seconds: float | None = None) -> bool:
    """Wait until there is a store in the directory; False if there is none in time.

    Args:
        path: the store's directory, which need not exist, nor those above it.
        timeout_seconds: None waits without a limit.
    """
    from evlog.files.follow.feed import wait_for_file
    from evlog.model.arguments import check_seconds

    (timeout_seconds,) = check_seconds(timeout_seconds=timeout_seconds)
    return wait_for_file(manifest_path(check_path(path)), timeout_seconds)


def verify_store(
    path: str | os.PathLike[str],
    *,
    quick: bool = False,
    against: str | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Do what `EventStore.verify` does, also for a store that is too damaged to be opened.

    Raises:
        As `EventStore.verify`.
    """
    from evlog.files.check import verify
    from evlog.model.arguments import check_functions
    from evlog.model.pins import maybe_parse_pin

    check_functions(progress=progress)
    pin = maybe_parse_pin(against, quick=quick)
    return verify.verify_store(check_path(path), quick=quick, pin=pin, progress=progress)


def repair_store(
    path: str | os.PathLike[str], *, lock_timeout: float | None = None, progress: Progress | None = None
) -> RepairReport:
    """Verify a store and repair what loses nothing: indexes, a torn tail, leftovers of crashes.

    Damaged events stay as they are; the result says which events that costs. Durable on return.

    Args:
        lock_timeout: seconds to wait for other writers; None waits without a limit.
        progress: as in `EventStore.verify`.

    Raises:
        LockTimeout: other writers held the lock for longer than `lock_timeout`.
        StoreFull, StoreIOError: the disk refuses; running it again continues.
        As `EventStore.verify`.
    """
    from evlog.files.check import repair
    from evlog.model.arguments import check_functions, check_seconds

    (lock_timeout,) = check_seconds(lock_timeout=lock_timeout)
    check_functions(progress=progress)
    return repair.repair_store(check_path(path), lock_timeout_seconds=lock_timeout, progress=progress)


def backup_store(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    links: bool = True,
    progress: Progress | None = None,
) -> Backup:
    """Copy a store while others write to it, or bring an earlier copy up to date. Durable on return.

    The copy is the store as it was at one moment of the run, and is used like any store. Writers do not wait.
    A run that was interrupted leaves what the run before it left, and the next one continues. A subscription
    that runs in the copy keeps its checkpoint; all others become those of the store.

    Args:
        out: a directory that is empty, does not exist, or holds an earlier backup of this store.
        links: give sealed segments a second name (a hard link) instead of copying them, where the file
            system allows it. They never change; but a fault of the device would hit both.
        progress: as in `EventStore.verify`: of the copying, then of the check.

    Raises:
        StoreDiverged: events were appended to the copy.
        NotAStore: there is something else at `out`.
        LockTimeout: another backup into `out` is running.
        StoreBusy: compactions replace segments faster than they can be copied.
        CorruptionError: the log's end is damaged.
        StoreFull, StoreIOError, StoreAccessDenied: the disk refuses; running it again continues.
    """
    from evlog.files import backup
    from evlog.model.arguments import check_functions

    check_functions(progress=progress)
    return backup.backup_store(check_path(path), check_path(out), links=links, progress=progress)


def salvage_store(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, progress: Progress | None = None
) -> SalvageReport:
    """Copy all undamaged events of a store into a new one; the old one is only read.

    Events keep position, version, id and time; lost ones leave gaps, and the result lists them. The new store
    has the old one's id, so use one of the two. Durable on return.

    Args:
        out: a directory that is empty or does not exist.
        progress: as in `EventStore.verify`.

    Raises:
        NotAStore: there is something at `out`, or nothing to salvage.
        StoreFull, StoreIOError, StoreAccessDenied: the disk refuses.
    """
    from evlog.files.check import salvage
    from evlog.model.arguments import check_functions

    check_functions(progress=progress)
    return salvage.salvage_store(check_path(path), check_path(out), progress=progress)
