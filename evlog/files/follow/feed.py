"""Knowing how far a log may be given out, and waiting until that is further.

The horizon is the last position that is acknowledged: what stands behind it may be cut, and written anew. It
moves when a writer leaves a mark in `durable` or replaces the manifest, which the file system tells. What a
writer left that died before its mark is made durable here, after a while. While a log is busy, looks are put
off a little, so that many followers do not slow its writers; the first news after a quiet time are not.

This module reads no event and knows nothing of who waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from evlog.errors import StoreNotFound
from evlog.files.disk.files import Disk
from evlog.files.disk.watch import TICK_SECONDS, Watch
from evlog.files.format import paths
from evlog.files.log.log import Log

# A writer that died before it said that its append is on the device is given so long to say it.
_PATIENCE_SECONDS: Final = 1.0
# A busy writer's appends are taken together: after news upon news the next look comes so much later.
_BUSY_SECONDS: Final = 0.002
_QUIET_SECONDS: Final = 0.05
_FIRST_PAUSE_SECONDS: Final = 0.001
_LAST_PAUSE_SECONDS: Final = 0.010


class Lookout:
    """One follower's look at a log.

    Args:
        log: the segments; looking refreshes them.
    """

    def __init__(self, log: Log, disk: Disk) -> None:
        self.horizon = 0  # as of the last look
        self._log = log
        self._store_id = log.manifest.store_id
        self._disk = disk
        self._watch = Watch(log.store)
        self._synced: tuple[int, int] = (0, 0)  # segment's tag, position: made durable by this follower
        self._pulse: object = None
        self._look_due = 0.0  # when to look closely, whatever the pulse says
        self._beyond: tuple[int, float] | None = None  # the horizon that did not move since, with more behind
        self._news_at = 0.0
        self._pause_seconds = 0.0

    @property
    def polling(self) -> bool:
        """Whether it has to look again and again; known once it has waited."""
        return self._watch.polling

    def look(self, scanned: int) -> bool:
        """Take in what the log has now; whether the horizon is beyond what was scanned.

        Raises:
            StoreNotFound: the store is gone, or another is in its place.
            CorruptionError: everything sound was scanned, and what follows was acknowledged and is damaged.
            StoreIOError: the disk failed.
        """
        log = self._log
        now = time.monotonic()
        pulse = log.pulse()
        if pulse == self._pulse and now < self._look_due:
            log.raise_damage()
            return False
        self._look_due = now + _PATIENCE_SECONDS
        log.refresh()
        self._pulse = pulse
        if log.manifest.store_id != self._store_id:
            raise StoreNotFound(log.store)
        self.horizon = max(log.acknowledged_position(), self._own_horizon())
        if self.horizon > scanned:
            self._beyond = None
            return True
        log.raise_damage()
        self._wait_out(now)
        return self.horizon > scanned

    def look_to_end(self) -> int:
        """The horizon now, where all whole frames are made durable at once if they are not."""
        self.look(0)
        if self._log.head > self.horizon:
            self._sync_head()
        return self.horizon

    def make_durable(self, position: int) -> None:
        """Return when all up to the position, which is within the horizon, is on the device."""
        if position > max(self._log.durable_position(), self._own_horizon()):
            self._sync_head()  # writers with sync="none" have acknowledged it

    def wait(self, scanned: int, deadline: float | None, idle: Callable[[], float]) -> bool:
        """Wait until the horizon is beyond what was scanned; False if it is not at the deadline.

        Args:
            deadline: a `time.monotonic()`; None waits for ever.
            idle: called between waits; after how many seconds it wants to be called again.

        Raises:
            As `look`.
        """
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            return False
        self._watch.begin()
        if now - self._news_at > _QUIET_SECONDS:
            self._pause_seconds = 0.0
        if self._pause_seconds:
            time.sleep(self._pause_seconds if deadline is None else min(self._pause_seconds, deadline - now))
        found = self.look(scanned)  # also for what came before the watch began
        self._pause_seconds *= 2 if found else 0.5
        while not found:
            left = min(idle(), TICK_SECONDS)
            if deadline is not None:
                left = min(left, deadline - time.monotonic())
                if left <= 0:
                    return False
            self._watch.wait(left)
            found = self.look(scanned)
        self._note_news(time.monotonic())
        return True

    def close(self) -> None:
        """Give the watch back."""
        self._watch.close()

    def _own_horizon(self) -> int:
        tag, position = self._synced
        return position if tag == self._log.active.segment.tag else 0

    def _wait_out(self, now: float) -> None:
        """Make durable what nobody acknowledges."""
        if self._log.head <= self.horizon:
            self._beyond = None
        elif self._beyond is None or self._beyond[0] != self.horizon:
            self._beyond = (self.horizon, now)
        elif now - self._beyond[1] >= _PATIENCE_SECONDS:
            self._beyond = None
            self._sync_head()

    def _sync_head(self) -> None:
        """Make all whole frames durable, as any of their writers would have; not if that is in doubt."""
        log = self._log
        with log.mutex:
            active, head = log.active.segment, log.head
        if log.marks().suspect is not None:
            return  # a sync has failed: only a writer that looks at the device can tell
        active.sync(self._disk)
        self._synced = (active.tag, head)
        self.horizon = max(self.horizon, head)

    def _note_news(self, now: float) -> None:
        """Choose the pause before the next look: none after a quiet time, longer while the log is busy."""
        self._watch.has_news()
        quiet_seconds = now - self._news_at
        self._news_at = now
        if quiet_seconds > _QUIET_SECONDS or self._pause_seconds < _FIRST_PAUSE_SECONDS:
            self._pause_seconds = _FIRST_PAUSE_SECONDS if quiet_seconds < _BUSY_SECONDS else 0.0
        self._pause_seconds = min(self._pause_seconds, _LAST_PAUSE_SECONDS)


def wait_for_store(path: str | os.PathLike[str], timeout_seconds: float | None = None) -> bool:
    """Wait until there is a store at the path; False if there is none in time.

    Args:
        path: the store's directory, which need not exist, nor those above it.
        timeout_seconds: None waits for ever.
    """
    manifest = paths.manifest_path(os.fspath(path))
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while not os.path.lexists(manifest):
        watch = Watch(_nearest_directory(manifest))
        try:
            watch.begin()
            while _nearest_directory(manifest) == watch.directory and not os.path.lexists(manifest):
                left = TICK_SECONDS if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                watch.wait(left)
        finally:
            watch.close()
    return True


def _nearest_directory(path: str) -> str:
    """The deepest directory above the path that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path := os.path.dirname(path)):
        pass
    return path
