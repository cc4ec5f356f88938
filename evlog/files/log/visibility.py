"""What the policies leave of the streams, in numbers: for lists, not for reading.

Visible are the last events of a stream. How many that are is known from its last version, but for those that
age: how many events a stream has since some moment is counted for all streams at once, by their hashes.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.hashes import hash_stream
from evlog.files.log.log import Log, SealedPart
from evlog.files.log.read import Bounds, read_stream
from evlog.model.reports import PolicyInfo, Retention, retention_of
from evlog.model.retention import (
    KEEP_ALL,
    first_visible_version,
    visible_since_us,
)


class Visible(NamedTuple):
    """What is left of a stream: so many events from this version on, by this policy."""

    events: int
    first_version: int
    retention: Retention


def list_policies(log: Log) -> list[PolicyInfo]:
    """Every policy in force, of streams and then of categories, by name."""
    return log.settled(lambda: _list_policies(log))


def _list_policies(log: Log) -> list[PolicyInfo]:
    rules = log.policies().rules()
    policies = [
        PolicyInfo(name, None, retention_of(rule, log.find_version(name, hash_stream(name))))
        for name, rule in sorted(rules.streams.items())
        if rule != KEEP_ALL
    ]
    policies += [
        PolicyInfo(None, name, retention_of(rule, 0))
        for name, rule in sorted(rules.categories.items())
        if rule != KEEP_ALL
    ]
    return policies


def count_policies(log: Log) -> tuple[int, int]:
    """For how many streams and categories something is set, and how many streams are deleted."""
    rules = log.policies().rules()
    policies = sum(rule != KEEP_ALL for rule in rules.categories.values())
    deleted = 0
    for name, rule in rules.streams.items():
        last_version = log.find_version(name, hash_stream(name)) if rule != KEEP_ALL else 0
        is_deleted = rule.is_deleted(last_version)
        deleted += is_deleted and last_version > 0
        policies += (rule.replace(deleted=0, tombstone=False) if is_deleted else rule) != KEEP_ALL
    return policies, deleted


class VisibleCounts:
    """Counts what is visible of one stream after another, all at the same moment.

    Args:
        names: all streams of the store, for hashes that several of them share.
    """

    def __init__(self, log: Log, names: list[str]) -> None:
        self._log = log
        self._rules = log.policies().rules()
        self._now_us = time.time_ns() // 1000
        self._names = names
        self._recent: dict[int, Counter[int]] = {}
        self._shared: set[int] | None = None  # hashes of several names

    def count(
        self, stream: str, events: int, first_version: int, last_version: int, last_time_us: int
    ) -> Visible | None:
        """What is visible of a stream, of which this is in the log; None if nothing is set for it."""
        rule = self._rules.rule_for(stream)
        if rule is None or rule == KEEP_ALL:
            return None
        retention = retention_of(rule, last_version)
        first = max(first_version, first_visible_version(rule, last_version))
        since_us = visible_since_us(rule, self._now_us)
        if first > last_version or (since_us is not None and last_time_us < since_us):
            return Visible(0, last_version + 1, retention)
        left: int | None = last_version - first + 1
        if events != last_version - first_version + 1:
            left = None  # it has gaps
        elif since_us is not None:
            recent = self._maybe_count_since(stream, since_us)
            left = None if recent is None else min(recent, last_version - first + 1)
        if left is None:
            return self._count_by_reading(stream, last_version, retention)
        return Visible(left, last_version - left + 1, retention)

    def _count_by_reading(self, stream: str, last_version: int, retention: Retention) -> Visible:
        bounds = Bounds(last_version=last_version)
        versions = [
            e.version for e in read_stream(self._log, stream, bounds, None, reverse=False, limit=None)
        ]
        return Visible(len(versions), versions[0] if versions else last_version + 1, retention)

    def _maybe_count_since(self, stream: str, since_us: int) -> int | None:
        """The stream's number of events since then; None if its hash is not its alone."""
        if self._shared is None:
            self._shared = {key for key, n in Counter(map(hash_stream, self._names)).items() if n > 1}
        stream_hash = hash_stream(stream)
        if stream_hash in self._shared:
            return None
        recent = self._recent.get(since_us)
        if recent is None:
            recent = self._recent[since_us] = self._count_since(since_us)
        return recent[stream_hash]

    def _count_since(self, since_us: int) -> Counter[int]:
        counts: Counter[int] = Counter()
        with self._log.mutex:
            parts = [(part, part.count) for part in self._log.parts()]
        for part, count in parts:
            if not count or (isinstance(part, SealedPart) and part.info.last_time_us < since_us):
                continue
            entries = part.segment.checked_entries() if isinstance(part, SealedPart) else part.segment.entries
            low = part.segment.number_at_time(since_us, count)
            counts.update(column(entries[low * ENTRY_BYTES : count * ENTRY_BYTES], "stream_hash"))
        return counts
