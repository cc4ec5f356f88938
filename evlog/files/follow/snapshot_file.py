"""The file of one snapshot. The bytes are specified in `evlog/files/format/snapshots.py`.

1. A snapshot is replaced atomically: after a crash it is the old one or the new one. Its name is not synced,
   because a snapshot is derived: a lost one costs only time.
2. One lock for all snapshots makes comparing and replacing one step. It is held for one write; a process that
   does not get it in a second does not save.
3. Reading needs no lock and no permission to write.
"""

from __future__ import annotations

import os

from evlog.errors import CorruptionError, LockTimeout
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import ReadFile, list_directory
from evlog.files.format import paths
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import FormatFault
from evlog.files.format.snapshots import (
    MAX_HEADER_BYTES,
    MAX_SNAPSHOT_BYTES,
    decode_snapshot,
    decode_snapshot_name,
    encode_snapshot,
)
from evlog.model.checkpoints import MAX_KEPT_NAME_BYTES
from evlog.model.events import maybe_name_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from evlog.files.disk.files import Disk
    from evlog.files.log.log import Log

_LOCK_SECONDS = 1.0


class SnapshotFile:
    """One snapshot. An `evlog.engine.SnapshotStore`.

    Args:
        store: the store's directory.
        store_id: the store's id; a snapshot of another store counts as damaged.
        name: a checked name.
        stream: whose state it is; None: that of a selection of the log.
    """

    def __init__(self, store: str, store_id: str, name: str, stream: str | None, disk: Disk) -> None:
        self._store = store
        self._store_id = store_id
        self._name = name
        self._stream = stream
        self._disk = disk
        self.path = paths.snapshot_path(store, name, None if stream is None else hash_stream(stream))

    def load(self) -> bytes | None:
        """Return the content; None if there is no snapshot.

        Raises:
            CorruptionError: it is damaged, or another store's.
        """
        try:
            raw = ReadFile(self.path).read_whole(MAX_SNAPSHOT_BYTES)
        except FileNotFoundError:
            return None
        try:
            return decode_snapshot(raw, self._store_id, self._name, self._stream)
        except FormatFault as fault:
            detail = f"the snapshot {self._name!r}: {fault}; the next fold rebuilds it"
            raise CorruptionError(self.path, None, detail) from None

    def save(self, content: bytes, before: bytes | None) -> bool:
        directory = paths.snapshots_path(self._store)
        if not os.path.isdir(directory):
            self._disk.make_dir(directory)
        lock = FileLock(paths.snapshots_lock_path(self._store), _LOCK_SECONDS, self._disk)
        try:
            with lock:
                if self._maybe_load() != before:
                    return False
                temporary = self.path + paths.TEMPORARY
                # Synced: the name never shows a torn file.
                raw = encode_snapshot(self._store_id, self._name, self._stream, content)
                self._disk.create_file(temporary, raw)
                self._disk.replace(temporary, self.path)
                return True
        except LockTimeout:
            return False
        finally:
            lock.close()

    def delete(self) -> bool:
        if not os.path.lexists(self.path):
            return False
        self._disk.remove(self.path)
        self._disk.sync_dir(paths.snapshots_path(self._store))
        return True

    def _maybe_load(self) -> bytes | None:
        try:
            return self.load()
        except CorruptionError:
            return None


def remove_leftovers(store: str, disk: Disk) -> None:
    """Remove what saves that were killed have left: it may hold what was redacted since."""
    directory = paths.snapshots_path(store)
    if not _list_temporary(directory):
        return
    lock = FileLock(paths.snapshots_lock_path(store), _LOCK_SECONDS, disk)
    try:
        with lock:
            disk.remove_all(directory, _list_temporary(directory))
    except LockTimeout:
        pass  # folds save all the time; the next call removes it
    finally:
        lock.close()


def _list_temporary(directory: str) -> list[str]:
    names = list_directory(directory, may_be_missing=True)
    return [name for name in names if name.endswith(paths.TEMPORARY)]


def list_snapshots(log: Log) -> list[tuple[str, str | None]]:
    """Return the name and the stream of each snapshot, sorted by name.

    A file whose first line is damaged has the name in its own, and the hash of a stream, which the log knows.
    """
    found = set[tuple[str, str | None]]()
    for file, name in scan_names(log.store):
        if name is not None and _is_file_of(file, *name):
            found.add(name)
            continue
        parsed = paths.maybe_parse_snapshot_name(file)
        if parsed is None or maybe_name_fault(parsed[0], MAX_KEPT_NAME_BYTES) is not None:
            continue
        try:
            stream = None if parsed[1] is None else log.maybe_find_stream(parsed[1])
        except CorruptionError:
            continue
        if _is_file_of(file, parsed[0], stream):
            found.add((parsed[0], stream))
    return sorted(found, key=lambda each: (each[0], each[1] or ""))


def _is_file_of(file: str, name: str, stream: str | None) -> bool:
    path = paths.snapshot_path("", name, None if stream is None else hash_stream(stream))
    return path.endswith(f"/{file}")


def scan_names(store: str) -> Iterator[tuple[str, tuple[str, str | None] | None]]:
    """Iterate over the files of snapshots, each with the name and stream in it; None if it is damaged."""
    directory = paths.snapshots_path(store)
    for file in list_directory(directory, may_be_missing=True):
        if not paths.is_snapshot_name(file):
            continue
        try:
            yield file, decode_snapshot_name(ReadFile(f"{directory}/{file}").read(MAX_HEADER_BYTES, 0))
        except FileNotFoundError:
            continue  # deleted meanwhile
        except (FormatFault, CorruptionError):
            yield file, None
