"""An open store as all of its methods need it: the log as last seen, the writer once there is one, closing.

What a store does is told in store.py and in the three classes that it is put together from: `Following`,
`Keeping` and `Checking`.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from evlog.errors import InvalidArgument, StoreClosed
from evlog.files.disk.files import DISK, Disk
from evlog.files.disk.fork import register_fork_reset
from evlog.files.log.log import Log
from evlog.files.write.create import create_store
from evlog.files.write.writer import Writer
from evlog.model.reports import TornTail


class Handle:
    """A store that is held open."""

    def __init__(
        self,
        path: str,
        create: bool,
        *,
        segment_bytes: int,
        segment_events: int,
        sync: str,
        lock_timeout: float | None,
        disk: Disk = DISK,
    ) -> None:
        if sync not in ("always", "none"):
            raise InvalidArgument(f"sync is {sync!r}; give 'always' or 'none'")
        if lock_timeout is not None and not lock_timeout >= 0:
            raise InvalidArgument(f"lock_timeout is {lock_timeout!r}; give seconds, 0 or more, or None")
        if not path or "\0" in path:
            raise InvalidArgument(f"{path!r} is no path; give the store's directory")
        self.path = path
        self._sync = sync == "always"
        self._lock_timeout_seconds = lock_timeout
        self._disk = disk
        self._mutex = threading.Lock()
        self._writer: Writer | None = None
        self.created = create and create_store(path, segment_bytes, segment_events, lock_timeout, disk)
        self._log: Log | None = Log(path)
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child: another thread of the parent may have held it."""
        self._mutex = threading.Lock()

    @property
    def torn_tails(self) -> list[TornTail]:
        """What this object cut from the end of the log: appends that a crash had left unfinished."""
        return [] if self._writer is None else self._writer.torn_tails

    def close(self) -> None:
        """Close the store. What was acknowledged is durable already; reads under way may go on."""
        with self._mutex:
            if self._writer is not None:
                self._writer.close()
            if self._log is not None:
                self._log.close()
            self._writer = None
            self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventStore {self.path!r}{' (closed)' if self._log is None else ''}>"

    def _opened(self) -> Log:
        if self._log is None:
            raise StoreClosed(self.path)
        return self._log

    def _refreshed(self) -> Log:
        log = self._opened()
        log.refresh()
        log.grow_tables()
        return log

    def _open_writer(self) -> Writer:
        writer = self._writer
        if writer is not None:
            return writer
        with self._mutex:
            if self._writer is None:
                self._writer = Writer(
                    self._opened(),
                    sync=self._sync,
                    lock_timeout_seconds=self._lock_timeout_seconds,
                    disk=self._disk,
                )
            return self._writer
