"""The local index: an ordinary store in a directory, an identical mirror of the topic. Derived.

1. It is in the user's cache (`$XDG_CACHE_HOME/evlog/kafka/<topic's id>`), shared by the user's processes.
   Each process applies what it reads. The first one adds an event, and the others find it there.
2. It serves every read but following. What is in it is committed in the topic.
3. A snapshot in it says how far the topic was read. The snapshot may be older than the index: records that
   are read again are skipped. If the last event applied is not at its offset, the index is of another history
   (brokers have lost records, or the disk lost the index's end): it is removed and built again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Final

import msgpack

from evlog.errors import CorruptionError, EvlogError, StoreNotFound
from evlog.files.disk.file_lock import FileLock
from evlog.files.engine import DirectoryEngine
from evlog.model.filters import LogSelection
from evlog.model.history import Standing
from evlog.model.named import NamedTuple

if TYPE_CHECKING:
    from evlog.model.events import Event

_STATE_NAME: Final = "topic"
_STATE_STREAM: Final = "$kafka"  # no user's snapshot is of such a stream


class Place(NamedTuple):
    """How far a topic was read."""

    offset: int = 0
    """of the record of the last event that was applied"""
    position: int = 0
    id: bytes = b""
    """that event's; empty: none was"""
    mirror_of: str = ""
    moved_to: str = ""
    """the standing before that record; a later one is read again"""


def index_path(store_id: str) -> str:
    """Return the folder of the index of a topic."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(root):  # a user without a home
        root = os.path.join(tempfile.gettempdir(), f"evlog-{os.getuid()}")
    return os.path.join(root, "evlog", "kafka", store_id)


def turn_lock(store_id: str, name: str) -> FileLock:
    """Return the lock that this machine's writers of a topic take turns with."""
    path = index_path(store_id)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return FileLock(f"{path}.{name}", None, exact=False)


def open_index(store_id: str) -> DirectoryEngine:
    """Return the index of a topic; a new one, if there is none that can be used."""
    path = index_path(store_id)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    for attempt in range(2):
        try:
            index = DirectoryEngine(path, create=True, sync=False)
            own = Standing(mirror_of=store_id)
            index.change_standing(Standing(), own, head=0)
            if index.standing == own:  # by this process or another one
                return index
            index.close()
        except EvlogError as error:
            if attempt or not isinstance(error, CorruptionError | StoreNotFound):
                raise
        remove_index(store_id)
    raise CorruptionError(path, None, "it is not this topic's index; remove the folder")


def remove_index(store_id: str) -> None:
    """Remove an index, which the next use builds again."""
    shutil.rmtree(index_path(store_id), ignore_errors=True)


def load_place(index: DirectoryEngine) -> Place:
    """Return how far the topic was read; the beginning, if that is not known."""
    try:
        raw = index.snapshot(_STATE_NAME, _STATE_STREAM).load()
        return Place() if raw is None else Place(*msgpack.unpackb(raw))
    except (CorruptionError, ValueError, TypeError, msgpack.UnpackException):
        return Place()


def save_place(index: DirectoryEngine, place: Place) -> None:
    """Store how far the topic was read. Another process may store its own: each of them is right."""
    kept = index.snapshot(_STATE_NAME, _STATE_STREAM)
    try:
        before = kept.load()
    except CorruptionError:
        before = None
    kept.save(msgpack.packb(tuple(place)), before)


def snapshot_names(index: DirectoryEngine) -> list[tuple[str, str | None]]:
    """Return the users' snapshots."""
    return [name for name in index.snapshot_names() if name != (_STATE_NAME, _STATE_STREAM)]


def last_event(index: DirectoryEngine) -> Event | None:
    """Return the last event, the store's own included."""
    return next(index.read_all(LogSelection.last()), None)
