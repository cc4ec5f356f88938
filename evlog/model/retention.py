"""Retention policies: what they say, which rule is in force for a stream, and which events it hides.

A policy is an event of type `$metadata` in a metadata stream: `$$NAME` for the stream NAME, `$$$ce-NAME` for
the category NAME. Its data holds KurrentDB's words and two of evlog's own. A policy replaces those before it:

    $maxCount   the last N events stay visible                       (1 or more)
    $maxAge     events older than N seconds are hidden               (1 or more)
    $tb         truncate before: the first version that stays        (streams only)
    $deleted    the stream was deleted when N was its last version   (streams only, evlog's)
    $tombstone  true: nothing may be appended to the stream again    (streams only, evlog's)

1. A stream's own setting is used instead of that of its category.
2. Every rule hides the oldest events of a stream, so what is visible has no gaps.
3. Only a deletion makes a stream not exist. The other words hide events of a stream that exists.
4. A deletion ends with the next event of the stream, or when the policy is cleared.
"""

from __future__ import annotations

from evlog.model.events import CATEGORY_PREFIX, METADATA_PREFIX, SYSTEM_PREFIX, category_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

    from evlog.model.events import Record

METADATA_TYPE: Final = "$metadata"
# The notes of compactions, and their stream.
COMPACTIONS_STREAM: Final = "$compactions"
STARTED_TYPE: Final = "$CompactionStarted"
FINISHED_TYPE: Final = "$CompactionFinished"
MIRRORED_TYPE: Final = "$Mirrored"  # how far a merge of another store has come
# Schemas of event types (`evlog/schemas`), all in one stream: its version tells whether they have changed.
SCHEMAS_STREAM: Final = "$schemas"
# Which events were erased (`redaction.py`).
REDACTIONS_STREAM: Final = "$redactions"
REDACTED_TYPE: Final = "$Redacted"
SCHEMA_TYPE: Final = "$schema"
# The store's own events have only these types, so an index by type finds them without reading any event.
SYSTEM_TYPES: Final = (
    METADATA_TYPE, STARTED_TYPE, FINISHED_TYPE, MIRRORED_TYPE, SCHEMA_TYPE, REDACTED_TYPE,
)  # fmt: skip

_SECOND_US: Final = 1_000_000
_MAX_REMEMBERED: Final = 4096


class Rule:
    """What is kept of a stream: every event, unless a field says otherwise. Immutable.

    Attributes:
        max_count: how many of the last events stay visible; None: all.
        max_age_us: for how many µs an event stays visible after it was written; None: without a limit.
        truncate_before: the first version that stays visible.
        deleted: the version up to which the stream was deleted; 0: it was not.
        tombstone: nothing is visible, and nothing may be appended.
    """

    __slots__ = ("deleted", "max_age_us", "max_count", "tombstone", "truncate_before")

    def __init__(
        self,
        max_count: int | None = None,
        max_age_us: int | None = None,
        truncate_before: int = 1,
        *,
        deleted: int = 0,
        tombstone: bool = False,
    ) -> None:
        self.max_count = max_count
        self.max_age_us = max_age_us
        self.truncate_before = truncate_before
        self.deleted = deleted
        self.tombstone = tombstone

    def replace(self, **changes: Any) -> Rule:
        """Return this rule with other values of some fields."""
        return Rule(**{name: getattr(self, name) for name in self.__slots__} | changes)

    def is_deleted(self, last_version: int) -> bool:
        """Return whether a stream with this last version is deleted."""
        return self.tombstone or self.deleted >= last_version > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"Rule{self._values()}"

    def _values(self) -> tuple[object, ...]:
        return (self.max_count, self.max_age_us, self.truncate_before, self.deleted, self.tombstone)


KEEP_ALL: Final = Rule()

# Only the last policy of a stream counts: those before it are hidden, as in KurrentDB.
_OF_METADATA: Final = Rule(max_count=1)


# --- what a rule hides


def first_visible_version(rule: Rule | None, last_version: int) -> int:
    """Return the first version that is visible but for its age; beyond `last_version` if there is none."""
    if rule is None:
        return 1
    if rule.tombstone:
        return last_version + 1
    first = max(rule.truncate_before, rule.deleted + 1)
    return first if rule.max_count is None else max(first, last_version - rule.max_count + 1)


def visible_since_us(rule: Rule | None, now_us: int) -> int | None:
    """Return the time before which events are hidden; None where age does not matter."""
    return None if rule is None or rule.max_age_us is None else now_us - rule.max_age_us


def hides(rule: Rule | None, record: Record, last_version: int, now_us: int) -> bool:
    """Return whether the rule hides the event, given the last version of its stream and the present."""
    if rule is None:
        return False
    if record[1] < first_visible_version(rule, last_version):
        return True
    since_us = visible_since_us(rule, now_us)
    return since_us is not None and record[5] < since_us


def shows_more(now: Rules, before: Rules) -> bool:
    """Return whether policies may show an event that others hide, once those are replaced by them."""
    if now.streams == before.streams and now.categories == before.categories:
        return False
    return any(
        _may_show(now.rule_for(name), before.rule_for(name)) for name in {*now.streams, *before.streams}
    ) or any(_may_show(now.categories.get(name), rule) for name, rule in before.categories.items())


def _may_show(now: Rule | None, before: Rule | None) -> bool:
    if before is None:
        return False
    now = now or KEEP_ALL
    limits = (now.max_count, before.max_count), (now.max_age_us, before.max_age_us)
    return (
        any(least is not None and (most is None or most > least) for most, least in limits)
        or now.truncate_before < before.truncate_before
        or now.deleted < before.deleted
        or now.tombstone < before.tombstone
    )


def rule_in_force(stream: str, own: Rule | None, common: Rule | None) -> Rule | None:
    """Return the rule made of a stream's own policy and its category's; None if neither says anything."""
    if stream.startswith(SYSTEM_PREFIX):
        return _OF_METADATA if stream.startswith(METADATA_PREFIX) else None
    if common is None:
        return own
    if own is None:
        return Rule(common.max_count, common.max_age_us)
    return Rule(
        common.max_count if own.max_count is None else own.max_count,
        common.max_age_us if own.max_age_us is None else own.max_age_us,
        own.truncate_before,
        deleted=own.deleted,
        tombstone=own.tombstone,
    )


# --- as events


def metadata_stream(*, stream: str | None = None, category: str | None = None) -> str:
    """Return the name of the stream that holds the policy of a stream or of a category."""
    # Names are joined by `+` everywhere: an f-string would show a member of a text Enum by its Python name.
    return CATEGORY_PREFIX + (category or "") if stream is None else METADATA_PREFIX + stream


def encode_policy(rule: Rule) -> bytes:
    """Return the data of the event that makes this rule the policy."""
    import json

    return json.dumps(as_words(rule), separators=(",", ":")).encode()


def decode_policy(data: bytes) -> Rule:
    """Return the rule that an event's data makes. A word that has no valid value is ignored."""
    rule = _decoded.get(data)
    if rule is None:
        import json

        try:
            words = json.loads(data)
        except (ValueError, RecursionError):
            words = None
        rule = from_words(words) if isinstance(words, dict) else KEEP_ALL
        if len(_decoded) >= _MAX_REMEMBERED:
            _decoded.clear()
        _decoded[data] = rule
    return rule


# Many streams have the same policy, for example `{"$tb":2}`. Threads share it: each use is one call of C.
_decoded: Final[dict[bytes, Rule]] = {}


def as_words(rule: Rule) -> dict[str, Any]:
    """Return the rule in the words of its event."""
    words: dict[str, Any] = {}
    if rule.max_count is not None:
        words["$maxCount"] = rule.max_count
    if rule.max_age_us is not None:
        words["$maxAge"] = rule.max_age_us // _SECOND_US
    if rule.truncate_before > 1:
        words["$tb"] = rule.truncate_before
    if rule.deleted:
        words["$deleted"] = rule.deleted
    if rule.tombstone:
        words["$tombstone"] = True
    return words


def from_words(words: dict[str, Any]) -> Rule:
    """Return the rule that these words make."""
    max_age = _number(words.get("$maxAge"))
    return Rule(
        _number(words.get("$maxCount")),
        None if max_age is None else max_age * _SECOND_US,
        _number(words.get("$tb")) or 1,
        deleted=_number(words.get("$deleted")) or 0,
        tombstone=words.get("$tombstone") is True,
    )


def _number(value: Any) -> int | None:
    return value if type(value) is int and value >= 1 else None


# --- all policies


class Rules:
    """The policies of a moment: of streams and of categories, each by its name.

    Attributes:
        schemas: the version of the stream of schemas.
        redactions: the events that say what was erased.
    """

    __slots__ = ("categories", "redactions", "schemas", "streams")

    def __init__(self) -> None:
        self.schemas = 0
        self.redactions: list[Record] = []
        self.streams: dict[str, Rule] = {}
        self.categories: dict[str, Rule] = {}

    def add(self, record: Record) -> None:
        """Add an event that may be a policy; a policy replaces the one before it."""
        name, type = record[2], record[3]
        if name == SCHEMAS_STREAM:
            self.schemas = record[1]
        if type == REDACTED_TYPE and name == REDACTIONS_STREAM:
            self.redactions.append(record)
        if type != METADATA_TYPE or not name.startswith(METADATA_PREFIX):
            return
        if name.startswith(CATEGORY_PREFIX):
            self.categories[name.removeprefix(CATEGORY_PREFIX)] = decode_policy(record[7])
        else:
            self.streams[name.removeprefix(METADATA_PREFIX)] = decode_policy(record[7])

    def update(self, later: Rules) -> None:
        """Add policies that were made later."""
        self.schemas = max(self.schemas, later.schemas)
        self.streams.update(later.streams)
        self.categories.update(later.categories)

    def rule_for(self, stream: str) -> Rule | None:
        """Return the rule in force for a stream; None if there is none."""
        return rule_in_force(stream, self.streams.get(stream), self.categories.get(category_of(stream)))

    def describe(self, stream: str) -> dict[str, Any]:
        """Return the rule in force for a stream as JSON can hold it, with the stream or category it is of."""
        is_own = stream in self.streams or stream.startswith(SYSTEM_PREFIX)
        name = {"stream": stream} if is_own else {"category": category_of(stream)}
        return name | as_words(self.rule_for(stream) or KEEP_ALL)

    def counts(self, versions: Mapping[str, int]) -> tuple[int, int]:
        """Return for how many streams and categories something is set, and how many streams are deleted.

        Args:
            versions: the last version of each stream that has a policy and an event.
        """
        policies = sum(rule != KEEP_ALL for rule in self.categories.values())
        deleted = 0
        for name, rule in self.streams.items():
            version = versions.get(name, 0)
            is_deleted = rule.is_deleted(version)
            deleted += is_deleted and version > 0
            policies += (rule.replace(deleted=0, tombstone=False) if is_deleted else rule) != KEEP_ALL
        return policies, deleted

    def as_data(self) -> list[dict[str, Any]]:
        """Return all of them as JSON can hold them, by name."""
        return [
            {kind: name} | as_words(rule)
            for kind, rules in (("stream", self.streams), ("category", self.categories))
            for name, rule in sorted(rules.items())
            if rule != KEEP_ALL
        ]
