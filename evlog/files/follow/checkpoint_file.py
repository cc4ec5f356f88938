"""The files of one named subscription: its checkpoint, what it parked, and the lock of its run.

A checkpoint says how far the log was *scanned*, matched or not, with the filter it was scanned for. It is
replaced in one step, so a crash leaves the old one or the new one, and never runs ahead of what was
acknowledged: a lost one means that events come again, not that they are lost. Parked events are lines added
to a file, each under a CRC; a line that a crash tore was never promised. Who changes any of this holds the
lock, which dies with its holder. The bytes are specified in evlog/files/format.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import NamedTuple
from uuid import UUID

from evlog.errors import CorruptionError, InvalidArgument, SubscriptionBusy, UnsupportedFormat
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, ReadFile, error_for
from evlog.files.format import paths
from evlog.files.format.headers import FORMAT_VERSION, FormatFault
from evlog.files.format.lines import decode_line, encode_line
from evlog.model.events import Event, maybe_name_fault

MAX_NAME_BYTES = 100
_LOCK_ATTEMPTS = 5
_MAX_CHECKPOINT_BYTES = 1 << 24  # a stranger's file may claim any length
_MAX_PARKED_BYTES = 1 << 28


class Filter(NamedTuple):
    """Which events a subscription is about; None: all of them."""

    stream: str | None = None
    category: str | None = None
    types: tuple[str, ...] | None = None  # sorted


class Checkpoint(NamedTuple):
    """How far a subscription has scanned the log, and when that was saved (µs since 1970)."""

    position: int
    filter: Filter
    time_us: int = 0


class ParkedEvent(NamedTuple):
    """An event that was put aside because its handler failed: where it stands in the log, and why."""

    position: int
    stream: str
    version: int
    type: str
    id: UUID
    error: str
    attempts: int
    time_us: int  # when it was parked


def check_subscription_name(name: str) -> str:
    """Return the name, or raise InvalidArgument saying what is wrong with it."""
    reason = maybe_name_fault(name, MAX_NAME_BYTES)
    if reason is not None:
        raise InvalidArgument(
            f"subscription name {name!r:.80} {reason}; use 1 to {MAX_NAME_BYTES} bytes of printable UTF-8"
        )
    return name


def list_names(store: str) -> list[str]:
    """The names of the subscriptions that have a checkpoint, sorted."""
    directory = paths.subscriptions_path(store)
    try:
        files = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise error_for(error, directory) from error
    parsed = map(paths.maybe_parse_subscription_name, files)
    return sorted(found[0] for found in parsed if found is not None and found[1] == "json")


class SubscriptionFiles:
    """What one subscription has on disk. Reading needs no lock and no permission to write.

    Args:
        store: the store's directory.
        store_id: the store's id; a checkpoint of another store's is refused.
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
        self._parked_end: int | None = None  # where the lines end that this run has added or seen
        self._lock = FileLock(paths.subscription_path(store, name, "lock"), 0.0, disk)

    # --- the lock

    def lock(self) -> None:
        """Begin a run, or a change; the kernel ends it should this process die.

        Raises:
            SubscriptionBusy: it is running.
            StoreAccessDenied: this user may not write to the store.
        """
        if not os.path.isdir(self._directory):
            self._disk.make_dir(self._directory)
            self._disk.sync_dir(self._store)  # before a checkpoint in it is promised
        for attempt in range(_LOCK_ATTEMPTS):
            file = self._lock.maybe_acquire()
            if file is None:
                if attempt:
                    time.sleep(0.001)  # somebody may be looking whether it runs: for microseconds
                continue
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._lock.path).st_ino == os.fstat(file.fd).st_ino:
                    return
            # `remove` took the name from under the lock: what was locked is nobody's any more.
            self._lock.release()
            self._lock.close()
        self._lock.close()
        raise SubscriptionBusy(self.name)

    def unlock(self) -> None:
        """End the run."""
        self._parked_end = None
        self._lock.release()
        self._lock.close()

    def is_running(self) -> bool:
        """Whether some process holds the lock now."""
        return self._lock.is_held()

    # --- the checkpoint

    def read(self) -> Checkpoint | None:
        """The checkpoint, or None if there is no such subscription.

        Raises:
            CorruptionError: it is damaged, or another store's.
            UnsupportedFormat: a newer evlog wrote it.
        """
        try:
            file = ReadFile(self.path)
        except FileNotFoundError:
            return None
        try:
            document = decode_line(file.read_whole(_MAX_CHECKPOINT_BYTES))
            if document["format"] > FORMAT_VERSION:
                raise UnsupportedFormat(self.path, document["format"], FORMAT_VERSION)
            if document["name"] != self.name or document["store_id"] != self._store_id:
                raise FormatFault("it belongs to another subscription or store")
            types = document["types"]
            filter = Filter(document["stream"], document["category"], None if types is None else tuple(types))
            return Checkpoint(document["position"], filter, document["time_us"])
        except (FormatFault, LookupError, TypeError) as fault:
            raise CorruptionError(self.path, None, f"a checkpoint: {fault}") from None

    def create_locked(self, checkpoint: Checkpoint) -> None:
        """Make the subscription known, durably. What an earlier one of its name left goes first."""
        self._disk.remove(self._parked_path)
        self.save_locked(checkpoint)
        self._disk.sync_dir(self._directory)

    def save_locked(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint. After a power loss it is this one or the one before, whole.

        The name is not synced: that would stall the log's own syncs once a second, to save a repetition.
        """
        types = checkpoint.filter.types
        document = {
            "format": FORMAT_VERSION,
            "store_id": self._store_id,
            "name": self.name,
            "stream": checkpoint.filter.stream,
            "category": checkpoint.filter.category,
            "types": None if types is None else list(types),
            "position": checkpoint.position,
            "time_us": time.time_ns() // 1000,
        }
        temporary = self.path + paths.TEMPORARY
        self._disk.create_file(temporary, encode_line(document))  # synced: the name never shows a torn file
        self._disk.replace(temporary, self.path)

    def sync_locked(self) -> None:
        """Return when the last checkpoint saved is durable."""
        self._disk.sync_dir(self._directory)

    def remove_locked(self) -> None:
        """Remove the subscription with all it parked; the lock goes with it."""
        for path in (self.path, self._parked_path, self._lock.path):
            self._disk.remove(path)
            self._disk.sync_dir(self._directory)  # in this order: parked events must not outlive it

    # --- parked events

    def parked(self) -> list[ParkedEvent]:
        """The parked events that were not replayed yet, in the order in which they were first parked.

        Raises:
            CorruptionError: a line that others follow is damaged.
        """
        return list(self._read_parked()[0].values())

    def park_locked(self, event: Event, error: str, attempts: int) -> None:
        """Put an event aside, or say that it failed again; durable when this returns."""
        fields = {
            "position": event.position,
            "stream": event.stream,
            "version": event.version,
            "type": event.type,
            "id": event.id.hex,
            "error": error,
            "attempts": attempts,
            "time_us": time.time_ns() // 1000,
        }
        self._add_line_locked(fields)

    def unpark_locked(self, position: int) -> None:
        """Take an event off the list; durable when this returns."""
        if [event.position for event in self.parked()] == [position]:
            self._disk.remove(self._parked_path)
            self._disk.sync_dir(self._directory)
            self._parked_end = None
        else:
            self._add_line_locked({"position": position, "done": True})

    def _add_line_locked(self, fields: dict[str, object]) -> None:
        end = self._read_parked()[1] if self._parked_end is None else self._parked_end
        self._parked_end = None  # until it is known to be right
        file = self._disk.open(self._parked_path, create=True)
        try:
            self._disk.cut(file, end)  # what a crash tore: else the next line would be a part of it
            line = encode_line(fields)
            self._disk.write_at(file, line, end)
            self._disk.sync(file)  # before the checkpoint may pass the event
        finally:
            self._disk.close(file)
        if not end:
            self._disk.sync_dir(self._directory)
        self._parked_end = end + len(line)

    def _read_parked(self) -> tuple[dict[int, ParkedEvent], int]:
        """The parked events by position, and where the last whole line ends."""
        try:
            file = ReadFile(self._parked_path)
        except FileNotFoundError:
            return {}, 0
        found: dict[int, ParkedEvent] = {}
        raw = file.read_whole(_MAX_PARKED_BYTES)
        end = at = 0
        fault: tuple[int, str] | None = None
        for line in raw.splitlines(keepends=True):
            try:
                fields = decode_line(line)
                if fields.pop("done", False):
                    found.pop(fields["position"], None)
                else:
                    found[fields["position"]] = ParkedEvent(**fields | {"id": UUID(fields["id"])})
            except (FormatFault, LookupError, TypeError, ValueError) as error:
                fault = fault or (at, str(error))
            else:
                if fault is not None:
                    raise CorruptionError(self._parked_path, fault[0], f"a parked event: {fault[1]}")
                end = at + len(line)
            at += len(line)
        return found, end
