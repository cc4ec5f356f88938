"""The names of all streams, in order, for pages of them and for a search by prefix.

A store has no index of its streams by name, so the names are collected once, and brought up to date from the
events that came since; after a deletion they are collected again. They take about 100 bytes of memory each.
The figures of a stream are read for each page.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from evlog.model.events import METADATA_PREFIX, SYSTEM_PREFIX, category_of
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from evlog.store import EventStore

_LAST: Final = "\U0010ffff"
_CATEGORIES: Final = 12
_RECENT_SECONDS: Final = 0.3


class StreamNames:
    """The names of a store's streams."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.reset_after_fork()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Begin again in a forked child: what the mutex guards may have been half changed."""
        self._mutex = threading.Lock()  # guards all that follows
        self._position = 0
        self._names: list[str] = []
        self._categories: Counter[str] = Counter()

    def page(self, prefix: str, after: str | None, before: str | None, limit: int) -> dict[str, Any]:
        """Return some streams whose names begin with a prefix.

        Args:
            after, before: names, exclusive; with `before` the last ones before it.
        """
        with self._mutex:
            self._update()
            names = self._names
            low, high = bisect_left(names, prefix), bisect_left(names, prefix + _LAST)
            if before:
                end = max(low, min(high, bisect_left(names, before)))
                begin = max(low, end - limit)
            else:
                begin = max(low, bisect_right(names, after)) if after else low
                end = min(high, begin + limit)
            shown = names[begin:end]
            categories = self._categories.most_common(_CATEGORIES)
        return {
            "streams": self._rows(shown),
            "first": begin - low + 1,
            "last": end - low,
            "count": high - low,
            "categories": categories,
        }

    def _update(self) -> None:
        """Take in the streams that are new since the last call, or all if one may have been deleted."""
        store, head, position = self._store, self._store.head, self._position
        written = (
            set(map(itemgetter(2), store.read_all(position, head, include_system=True))) if position else ()
        )
        if not 0 < position <= head or any(name.startswith(METADATA_PREFIX) for name in written):
            self._names, self._categories = [], Counter()
            new = [info.stream for info in store.streams()]
        else:
            new = [name for name in written if name[0] != SYSTEM_PREFIX and not self._knows(name)]
        self._position = head
        if new:
            self._names = sorted(self._names + new)
            self._categories.update(map(category_of, new))

    def _knows(self, name: str) -> bool:
        at = bisect_left(self._names, name)
        return at < len(self._names) and self._names[at] == name

    def _rows(self, names: list[str]) -> list[dict[str, Any]]:
        store = self._store
        rows = []
        for name, version in zip(names, store.engine.versions(names), strict=True):
            last = store.last(name)
            row = {"stream": name, "version": version, "type": None, "time_us": None, "position": None}
            if last is not None:
                row |= {"type": last.type, "time_us": last.time_us, "position": last.position}
            rows.append(row)
        return rows


def recent_names(store: EventStore, limit: int) -> dict[str, list[str]]:
    """Return the streams, categories, types and tags of the last events, the most frequent first."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("stream", "category", "type", "tag")}
    end = time.monotonic() + _RECENT_SECONDS
    for event in store.read_all(reverse=True, limit=limit):
        if event.stream[0] != SYSTEM_PREFIX:
            found["stream"][event.stream] += 1
            found["category"][event.category] += 1
            found["type"][event.type] += 1
            found["tag"].update(event.tags)
        if time.monotonic() > end:
            break
    return {name: [text for text, _ in counts.most_common(100)] for name, counts in found.items()}
