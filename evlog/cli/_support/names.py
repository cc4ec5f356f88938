"""The names of streams and types in a store, for completion. It must be fast: a person waits after each Tab.

1. The newest events are read, for a time too short to notice. In a small store that is all of them.
2. For a large store the names are also in the user's cache (`$XDG_CACHE_HOME/evlog`), up to a position. A
   background process brings the cache up to date after the shell has its answer, so the next Tab knows every
   name.
3. The cache is derived: if it cannot be read, it is built again. A user without a home has none.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from itertools import islice
from operator import itemgetter

from evlog.errors import EvlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Final

    from evlog.model.events import Event
    from evlog.store import EventStore

_READ_SECONDS: Final = 0.08
_LOOK_EVENTS: Final = 2000  # read between two looks at the clock
_STALE_EVENTS: Final = 2000  # this many events behind the cache are worth a process
_STREAM, _TYPE = itemgetter(2), itemgetter(3)


class Names:
    """Names up to a position.

    Args:
        streams: UTF-8, sorted.
    """

    def __init__(
        self,
        position: int = 0,
        streams: list[bytes] | None = None,
        categories: Iterable[str] = (),
        types: Iterable[str] = (),
    ) -> None:
        self.position = position
        self._sorted = streams or []
        self._new: set[str] = set()
        self._categories = set(categories)
        self.types = set(types)

    def add(self, events: list[Event]) -> None:
        """Add the names of some events."""
        self._new.update(map(_STREAM, events))
        self.types.update(map(_TYPE, events))

    @property
    def categories(self) -> set[str]:
        """The categories of all streams."""
        return self._categories | {stream.partition("-")[0] for stream in self._new}

    def streams(self, prefix: str = "") -> list[str]:
        """Return the streams that begin with a text, sorted."""
        begin = prefix.encode(errors="surrogateescape")
        first = bisect_left(self._sorted, begin)
        end = bisect_left(self._sorted, begin + b"\xff") if begin else len(self._sorted)
        known = [name.decode() for name in self._sorted[first:end]]
        new = [name for name in self._new if name.startswith(prefix)]
        return sorted({*known, *new}) if new else known

    def encoded(self) -> bytes:
        """Return all names as the cache holds them: a line of JSON, and a line for each stream."""
        import json

        head = {"position": self.position, "categories": [*self.categories], "types": [*self.types]}
        streams = sorted(name.encode() for name in {*self.streams()})
        return b"\n".join([json.dumps(head).encode(), *streams])


def find_names(store: EventStore) -> tuple[Names, bool]:
    """Return the names that can be found at once, and whether the cache is to be brought up to date."""
    head = store.head
    names = _load(store, head)
    is_stale = head - names.position > _STALE_EVENTS
    events = store.read_all(names.position, reverse=True)
    last_moment = time.monotonic() + _READ_SECONDS
    while time.monotonic() < last_moment and (part := [*islice(events, _LOOK_EVENTS)]):
        names.add(part)
    return names, is_stale


def update_in_background(open_store: Callable[[], EventStore]) -> None:
    """Bring the cache up to date in a background process."""
    if os.fork():
        return
    try:
        os.setsid()
        os.nice(10)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nowhere, fd)  # the shell waits until its pipe is closed
        with open_store() as store:
            update(store)
    finally:
        os._exit(0)


def update(store: EventStore) -> None:
    """Read all events that the cache does not have, and replace it, unless another process already does."""
    import fcntl

    path = _path(store)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(f"{path}.lock", "wb", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            position = store.head
            names = _load(store, position)
            events: Iterator[Event] = store.read_all(names.position, position)
            while part := [*islice(events, _LOOK_EVENTS)]:
                names.add(part)
            names.position = position
            with open(f"{path}.new", "wb", opener=_private) as file:
                file.write(names.encoded())
            os.replace(f"{path}.new", path)
    except (OSError, EvlogError):
        pass  # busy, full, or a damaged store: there is no cache then


def _load(store: EventStore, head: int) -> Names:
    """Return the names in the cache; none if it was made from a copy of the store that was ahead."""
    import json

    try:
        with open(_path(store), "rb") as file:
            first, *streams = file.read().split(b"\n")
        kept = json.loads(first)
        if kept["position"] > head:
            return Names()
        return Names(int(kept["position"]), streams, kept["categories"], kept["types"])
    except (OSError, ValueError, LookupError, TypeError):
        return Names()


def _path(store: EventStore) -> str:
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(folder, "evlog", f"{store.engine.store_id}.names")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
