"""Retention policies: what they say, which is in force for a stream, and which events it hides.

A policy is an event of type `$metadata` in a metadata stream: `$$NAME` for the stream NAME, `$$$ce-NAME` for
the category NAME. Its data holds KurrentDB's words, and one of evlog's own; the last one says all of it:

    $maxCount   so many of the last events stay visible            (1 or more)
    $maxAge     events written longer ago are hidden, in seconds   (1 or more)
    $tb         truncate before: the first version that stays      (streams only)
    $tombstone  true: nothing may be appended to the stream again  (streams only, evlog's)

A stream's own word goes before that of its category. All of them hide the oldest events of a stream, so
that what is visible has no gaps. Pure: policy_table.py finds them in a log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

from evlog.model.events import CATEGORY_PREFIX, METADATA_PREFIX, SYSTEM_PREFIX, Record, category_of

METADATA_TYPE: Final = "$metadata"
# The store's own events have no other types than these: by them they are found without reading anything.
SYSTEM_TYPES: Final = (METADATA_TYPE, "$CompactionStarted", "$CompactionFinished")

_SECOND_US: Final = 1_000_000


class Rule(NamedTuple):
    """What is kept of a stream: every event, as far as no field says otherwise.

    Attributes:
        max_count: how many of the last events stay visible.
        max_age_us: for how many µs an event stays visible after it was written.
        truncate_before: the first version that stays visible.
        tombstone: nothing is visible any more, and nothing may be appended.
    """

    max_count: int | None = None
    max_age_us: int | None = None
    truncate_before: int = 1
    tombstone: bool = False

    def is_deleted(self, last_version: int) -> bool:
        """Whether a stream with this last version is deleted: cut off behind its last event."""
        return self.tombstone or self.truncate_before > last_version > 0


KEEP_ALL: Final = Rule()


class Retention(NamedTuple):
    """What is kept of a stream, or of every stream of a category.

    Attributes:
        max_count: how many of the last events stay visible; None: all.
        max_age_seconds: for how long an event stays visible; None: for ever.
        before: the first version that stays visible; 1: all do.
        deleted: whether the stream was deleted, and nothing was appended since.
        tombstone: whether nothing may be appended to it ever again.
    """

    max_count: int | None = None
    max_age_seconds: int | None = None
    before: int = 1
    deleted: bool = False
    tombstone: bool = False

    @property
    def max_age(self) -> timedelta | None:
        """`max_age_seconds` as a timedelta."""
        return None if self.max_age_seconds is None else timedelta(seconds=self.max_age_seconds)


def retention_of(rule: Rule | None, last_version: int) -> Retention:
    """The rule as users see it."""
    if rule is None:
        return Retention()
    max_age_seconds = None if rule.max_age_us is None else rule.max_age_us // _SECOND_US
    deleted = rule.is_deleted(last_version)
    return Retention(rule.max_count, max_age_seconds, rule.truncate_before, deleted, rule.tombstone)


# Only the last policy of a stream counts: the ones before it are hidden, as in KurrentDB.
_OF_METADATA: Final = Rule(max_count=1)


def first_visible_version(rule: Rule | None, last_version: int) -> int:
    """The first version that counts and versions leave visible; beyond the last one if none is."""
    if rule is None:
        return 1
    if rule.tombstone:
        return last_version + 1
    if rule.max_count is None:
        return rule.truncate_before
    return max(rule.truncate_before, last_version - rule.max_count + 1)


def visible_since_us(rule: Rule | None, now_us: int) -> int | None:
    """Events that were written before this time are hidden; None where age does not matter."""
    return None if rule is None or rule.max_age_us is None else now_us - rule.max_age_us


def hides(rule: Rule | None, record: Record, last_version: int, now_us: int) -> bool:
    """Whether the rule hides the event, given the last version of its stream and the present."""
    if rule is None:
        return False
    if record[1] < first_visible_version(rule, last_version):
        return True
    since_us = visible_since_us(rule, now_us)
    return since_us is not None and record[5] < since_us


def rule_in_force(stream: str, own: Rule | None, common: Rule | None) -> Rule | None:
    """What a stream's own policy and that of its category come to; None if there is nothing to keep to."""
    if stream.startswith(SYSTEM_PREFIX):
        return _OF_METADATA if stream.startswith(METADATA_PREFIX) else None
    if common is None:
        return own
    if own is None:
        return common._replace(truncate_before=1, tombstone=False)
    return own._replace(
        max_count=common.max_count if own.max_count is None else own.max_count,
        max_age_us=common.max_age_us if own.max_age_us is None else own.max_age_us,
    )


# --- as events


def metadata_stream(*, stream: str | None = None, category: str | None = None) -> str:
    """The name of the stream that holds the policy of a stream or of a category."""
    return f"{CATEGORY_PREFIX}{category}" if stream is None else f"{METADATA_PREFIX}{stream}"


def encode_policy(rule: Rule) -> bytes:
    """The data of the event that makes this the policy."""
    return json.dumps(as_words(rule), separators=(",", ":")).encode()


@lru_cache(maxsize=4096)  # many streams have the same one, say `{"$tb":2}`
def decode_policy(data: bytes) -> Rule:
    """The policy that an event's data makes. What cannot be understood says nothing."""
    try:
        words = json.loads(data)
    except ValueError:
        return KEEP_ALL
    return from_words(words) if isinstance(words, dict) else KEEP_ALL


def as_words(rule: Rule) -> dict[str, Any]:
    """The rule in KurrentDB's words; none for what is not limited."""
    words: dict[str, Any] = {}
    if rule.max_count is not None:
        words["$maxCount"] = rule.max_count
    if rule.max_age_us is not None:
        words["$maxAge"] = rule.max_age_us // _SECOND_US
    if rule.truncate_before > 1:
        words["$tb"] = rule.truncate_before
    if rule.tombstone:
        words["$tombstone"] = True
    return words


def from_words(words: dict[str, Any]) -> Rule:
    """The rule that these words make."""
    max_age = _number(words.get("$maxAge"))
    return Rule(
        _number(words.get("$maxCount")),
        None if max_age is None else max_age * _SECOND_US,
        _number(words.get("$tb")) or 1,
        words.get("$tombstone") is True,
    )


def _number(value: Any) -> int | None:
    return value if type(value) is int and value >= 1 else None


# --- all of them


class Rules:
    """The policies of a moment: of streams and of categories, each by its name."""

    __slots__ = ("categories", "streams")

    def __init__(self) -> None:
        self.streams: dict[str, Rule] = {}
        self.categories: dict[str, Rule] = {}

    def add(self, record: Record) -> None:
        """Take in an event that may be a policy; it replaces the one that was there before."""
        name, type = record[2], record[3]
        if type != METADATA_TYPE or not name.startswith(METADATA_PREFIX):
            return
        if name.startswith(CATEGORY_PREFIX):
            self.categories[name.removeprefix(CATEGORY_PREFIX)] = decode_policy(record[7])
        else:
            self.streams[name.removeprefix(METADATA_PREFIX)] = decode_policy(record[7])

    def update(self, later: Rules) -> None:
        """Take in policies that were made later."""
        self.streams.update(later.streams)
        self.categories.update(later.categories)

    def rule_for(self, stream: str) -> Rule | None:
        """The rule in force for a stream, its own words before its category's; None if there is none."""
        return rule_in_force(stream, self.streams.get(stream), self.categories.get(category_of(stream)))

    def as_data(self) -> list[dict[str, Any]]:
        """All of them as JSON can hold them, by name."""
        return [
            {kind: name} | as_words(rule)
            for kind, rules in (("stream", self.streams), ("category", self.categories))
            for name, rule in sorted(rules.items())
            if rule != KEEP_ALL
        ]

    @classmethod
    def from_data(cls, data: Iterable[dict[str, Any]]) -> Rules:
        """What `as_data` made."""
        rules = cls()
        for words in data:
            if "stream" in words:
                rules.streams[words["stream"]] = from_words(words)
            elif "category" in words:
                rules.categories[words["category"]] = from_words(words)
        return rules
