"""The files of one named subscription: its checkpoint, its parked events, and the lock of its run.

1. A checkpoint is replaced atomically: after a crash it is the old one or the new one. It never runs ahead of
   what was acknowledged, so a lost one means that events come again.
2. A parked event is a line added to a file. A line that a crash tore was never acknowledged, and is
   overwritten. Lines that no longer count may quote personal data. The file is replaced by one without them
   when the lock is released, and before they are more than the others.
3. A change needs the lock, which the kernel frees when its process dies. Reading needs no lock and no
   permission to write.

The bytes are specified in `evlog/files/format/checkpoints.py`.
"""

from __future__ import annotations

import os
import time

from evlog.errors import CorruptionError, EvlogError, SubscriptionBusy, Unsupported
from evlog.files.disk.file_lock import FileLock, holder_of
from evlog.files.disk.files import ReadFile, list_directory
from evlog.files.format import paths
from evlog.files.format.checkpoints import (
    MAX_CHECKPOINT_BYTES,
    MAX_PARKED_BYTES,
    decode_checkpoint,
    decode_parked,
    encode_checkpoint,
    encode_parked,
    encode_unparked,
)
from evlog.files.format.headers import FormatFault
from evlog.model.events import now_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from evlog.files.disk.files import Disk
    from evlog.model.checkpoints import Checkpoint, ParkedEvent
    from evlog.model.events import Event

_LOCK_ATTEMPTS = 5
_SPARE_BYTES = 1 << 20  # of lines that no longer count, which may stay during a run


def list_names(store: str) -> list[str]:
    """Return the names of the subscriptions that have a checkpoint, sorted."""
    files = list_directory(paths.subscriptions_path(store), may_be_missing=True)
    parsed = map(paths.maybe_parse_subscription_name, files)
    return sorted(found[0] for found in parsed if found is not None and found[1] == "json")


class SubscriptionFiles:
    """The files of one subscription. An `evlog.engine.CheckpointStore`.

    Args:
        store: the store's directory.
        store_id: the store's id; a checkpoint of another store is refused.
        name: a checked name.
    """

    def __init__(self, store: str, store_id: str, name: str, disk: Disk) -> None:
        self.name = name
        self._store = store
        self._store_id = store_id
        self._disk = disk
        self._directory = paths.subscriptions_path(store)
        self.path = paths.subscription_path(store, name, "json")
        self._parked_path = paths.subscription_path(store, name, "parked")
        # While the lock is held: the line of each parked position, their bytes together, and where the last
        # whole line ends. None: to be read.
        self._list: tuple[dict[int, bytes], int, int] | None = None
        self._process = 0  # that has acquired it
        self._lock = FileLock(paths.subscription_path(store, name, "lock"), 0.0, disk)

    # --- the lock

    def acquire(self) -> None:
        """Begin a run or a change; the kernel ends it when this process dies.

        Raises:
            SubscriptionBusy: it is running.
            StoreAccessDenied: this user may not write to the store.
        """
        self._process = os.getpid()
        if not os.path.isdir(self._directory):
            self._disk.make_dir(self._directory)
            self._disk.sync_dir(self._store)  # before a checkpoint in it is acknowledged
        for attempt in range(_LOCK_ATTEMPTS):
            file = self._lock.maybe_acquire()
            if file is None:
                if attempt:
                    time.sleep(0.001)  # `is_running` of another process holds it for microseconds
                continue
            try:
                if os.stat(self._lock.path).st_ino == os.fstat(file.fd).st_ino:
                    return
            except FileNotFoundError:
                pass
            except BaseException:  # an interrupt: the lock must not stay taken
                self.release()
                raise
            # `delete` removed the name after the file was opened: this lock excludes no other process.
            self._lock.release()
            self._lock.close()
        self._lock.close()
        raise SubscriptionBusy(self.name, holder_of(self._lock.path))

    def release(self) -> None:
        """End the run."""
        if self._list is not None and self._process == os.getpid():  # a forked child has its parent's
            lines, counted_bytes, end = self._list
            if end > counted_bytes:
                try:
                    self._replace_parked(lines)
                except EvlogError:
                    pass  # the file holds the same as it is; the next change tries again
        self._list = None
        self._lock.release()
        self._lock.close()

    def is_running(self) -> bool:
        """Return whether a process holds the lock now."""
        return self._lock.is_held()

    # --- the checkpoint

    def load(self) -> Checkpoint | None:
        """Return the checkpoint, or None if there is no such subscription.

        Raises:
            CorruptionError: it is damaged, or another store's.
            UnsupportedFormat: a newer evlog wrote it.
        """
        try:
            file = ReadFile(self.path)
        except FileNotFoundError:
            return None
        try:
            raw = file.read_whole(MAX_CHECKPOINT_BYTES)
            return decode_checkpoint(raw, self.path, self._store_id, self.name)
        except FormatFault as fault:
            detail = (
                f"the checkpoint of subscription {self.name!r}: {fault}; reset the subscription to repair it"
            )
            raise CorruptionError(self.path, None, detail) from None

    def create(self, checkpoint: Checkpoint) -> None:
        """Add the subscription, durably. What an earlier one of this name parked is removed first."""
        self._list = None
        self._disk.remove(self._parked_path)
        self.save(checkpoint)
        self.sync()

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint. After a power loss it is this one or the one before, whole.

        The name is not synced: that would delay the log's own syncs once a second, to save a repetition.
        """
        checkpoint = checkpoint._replace(time_us=now_ns() // 1000)
        temporary = self.path + paths.TEMPORARY
        # Synced: the name never shows a torn file.
        self._disk.create_file(temporary, encode_checkpoint(self._store_id, self.name, checkpoint))
        self._disk.replace(temporary, self.path)

    def sync(self) -> None:
        self._disk.sync_dir(self._directory)

    def begin(self, position: int) -> NoReturn:  # noqa: ARG002 - the protocol's
        """Refuse: files have no transaction that a caller's own data could be in."""
        raise Unsupported("directory", "transactions of a subscription")

    def end(self, error: BaseException | None) -> None:
        """Do nothing: `begin` refuses."""

    def delete(self) -> None:
        """Remove the subscription with all it parked, durably; the lock's file is removed last."""
        self._list = None
        # In this order: a checkpoint must not be left without its parked events.
        for path in (self.path, self._parked_path, self._lock.path):
            self._disk.remove(path)
            self._disk.sync_dir(self._directory)

    # --- parked events

    def parked(self) -> list[ParkedEvent]:
        """Return the parked events in the order in which they were parked first.

        Raises:
            CorruptionError: a line that others follow is damaged.
        """
        return [event for event, _ in self._read_parked()[0].values()]

    def park(self, event: Event, error: str, attempts: int) -> None:
        self._add_line(event.position, encode_parked(event, error, attempts, now_ns() // 1000))

    def unpark(self, position: int) -> None:
        self._add_line(position, encode_unparked(position), counts=False)

    def _add_line(self, position: int, line: bytes, *, counts: bool = True) -> None:
        if self._list is None:
            found, end = self._read_parked()
            lines = {each: own for each, (_, own) in found.items()}
            self._list = (lines, sum(map(len, lines.values())), end)
        lines, counted_bytes, end = self._list
        self._list = None  # until the line is known to be written
        counted_bytes -= len(lines.get(position, b""))
        if counts:
            lines[position] = line
            counted_bytes += len(line)
        else:
            lines.pop(position, None)
        if not lines:
            self._disk.remove(self._parked_path)
            self._disk.sync_dir(self._directory)
            self._list = (lines, 0, 0)
            return
        if end + len(line) - counted_bytes > max(counted_bytes, _SPARE_BYTES):
            self._replace_parked(lines)
            self._list = (lines, counted_bytes, counted_bytes)
            return
        file = self._disk.open(self._parked_path, create=True)
        try:
            self._disk.cut(file, end)  # a line that a crash tore: else the next line would be a part of it
            self._disk.write_at(file, line, end)
            self._disk.sync(file)  # before the checkpoint may pass the event
        finally:
            self._disk.close(file)
        if not end:
            self._disk.sync_dir(self._directory)
        self._list = (lines, counted_bytes, end + len(line))

    def _replace_parked(self, lines: dict[int, bytes]) -> None:
        """Replace the file by one with these lines alone, durably: the others are then on no disk."""
        temporary = self._parked_path + paths.TEMPORARY
        self._disk.create_file(temporary, b"".join(lines.values()))
        self._disk.replace(temporary, self._parked_path)
        self._disk.sync_dir(self._directory)

    def _read_parked(self) -> tuple[dict[int, tuple[ParkedEvent, bytes]], int]:
        """Return the parked events by position, each with its line, and where the last whole line ends."""
        try:
            file = ReadFile(self._parked_path)
        except FileNotFoundError:
            return {}, 0
        found: dict[int, tuple[ParkedEvent, bytes]] = {}
        raw = file.read_whole(MAX_PARKED_BYTES)
        end = at = 0
        fault: tuple[int, str] | None = None
        for line in raw.splitlines(keepends=True):
            try:
                position, parked = decode_parked(line)
            except FormatFault as error:
                fault = fault or (at, str(error))
            else:
                if fault is not None:
                    raise CorruptionError(self._parked_path, fault[0], f"a parked event: {fault[1]}")
                if parked is None:
                    found.pop(position, None)
                else:
                    found[position] = parked, line
                end = at + len(line)
            at += len(line)
        return found, end
