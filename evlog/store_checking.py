"""Checking as a store offers it, and what can be done for a store that is too damaged to be opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from evlog.errors import InvalidArgument
from evlog.handle import Handle
from evlog.model.reports import VerifyReport

if TYPE_CHECKING:  # what is rare is imported when it is used: a shell command lives for 0.1 s
    from evlog.files.check.repair import RepairReport
    from evlog.files.check.salvage import SalvageReport


class Checking(Handle):
    """What holds the files to each other."""

    def verify(
        self,
        *,
        quick: bool = False,
        against: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> VerifyReport:
        """Check everything on disk against everything else; writers may go on meanwhile.

        Args:
            quick: only lengths, headers and the end of the log: a moment, whatever the size.
            against: a `POSITION:DIGEST` that an earlier report gave as `head_digest`: whether history up to
                there is what it was.
            progress: is called with the bytes checked so far and their total.

        Raises:
            InvalidArgument: `against` is no such text, or was asked for together with `quick`.
            StoreNotFound, NotAStore, UnsupportedFormat, StoreAccessDenied: there is nothing to check.
        """
        self._opened()
        return verify_store(self.path, quick=quick, against=against, progress=progress)


def verify_store(
    path: str | os.PathLike[str],
    *,
    quick: bool = False,
    against: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """What `EventStore.verify` does, also for a store that is too damaged to be opened.

    Raises:
        As `EventStore.verify`.
    """
    from evlog.files.check import verify
    from evlog.files.check.digest import parse_pin

    if quick and against is not None:
        raise InvalidArgument("a digest needs every byte, and quick reads few; give one of the two")
    pin = None if against is None else parse_pin(against)
    return verify.verify_store(os.fspath(path), quick=quick, pin=pin, progress=progress)


def repair_store(
    path: str | os.PathLike[str],
    *,
    lock_timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RepairReport:
    """Verify a store and mend what loses nothing: indexes, a torn tail, leftovers of crashes.

    What is damaged for good stays as it is; the result says which events that costs. Durable on return.

    Args:
        lock_timeout: seconds to wait for other writers; None waits for as long as it takes.
        progress: as in `EventStore.verify`.

    Raises:
        LockTimeout: other writers held the lock for longer than `lock_timeout`.
        StoreFull, StoreIOError: the disk refuses; running it again goes on.
        As `EventStore.verify`.
    """
    from evlog.files.check import repair

    return repair.repair_store(os.fspath(path), lock_timeout_seconds=lock_timeout, progress=progress)


def salvage_store(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SalvageReport:
    """Copy all that is whole of a damaged store into a new one; the old one is only read.

    Events keep position, version, id and time; where some are lost there are gaps, and the result lists
    them. The new store has the old one's id, so use one of the two. Durable on return.

    Args:
        out: a directory that is empty or not there yet.
        progress: as in `EventStore.verify`.

    Raises:
        NotAStore: there is something at `out`, or nothing to salvage.
        StoreFull, StoreIOError, StoreAccessDenied: the disk refuses.
    """
    from evlog.files.check import salvage

    return salvage.salvage_store(os.fspath(path), os.fspath(out), progress=progress)
