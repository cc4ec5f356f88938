"""Retention policies, which are events of the store's own: changing and telling them.

1. A change is a decision: the policy in force is read and changed, and the new one is appended if its stream
   has not changed meanwhile; else all of this again. So neither of two concurrent changes is lost.
2. Deleting a stream is such a change.
3. A change without effect appends nothing, and makes durable what is there: another writer may have appended
   the same a moment ago.
"""

from __future__ import annotations

from evlog.errors import WrongExpectedVersion
from evlog.model.appends import ANY, NO_STREAM, AppendRequest, Expectation
from evlog.model.events import JSON_CODE
from evlog.model.filters import StreamSelection
from evlog.model.policy_changes import delete
from evlog.model.reports import PolicyInfo, retention_of
from evlog.model.retention import KEEP_ALL, METADATA_TYPE, decode_policy, encode_policy, metadata_stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from evlog.engine import Engine
    from evlog.model.appends import ExpectedVersion
    from evlog.model.policy_changes import PolicyChange
    from evlog.model.reports import Retention
    from evlog.model.retention import Rule, Rules

    class PolicyEngine(Engine, Protocol):
        """An engine that keeps policies as events."""

        def rules(self) -> Rules:
            """Return the rules in force now."""

        def flush(self) -> None:
            """Return once all that was appended is durable."""


def set_retention(engine: PolicyEngine, change: PolicyChange) -> None:
    """Set the given parts of a policy, durably."""

    def version_of(stream: str) -> int:
        return engine.versions([stream])[0]

    _change_policy(engine, change.stream, change.category, lambda rule: change.apply(rule, version_of))


def delete_stream(engine: PolicyEngine, stream: str, *, tombstone: bool, expected: ExpectedVersion) -> int:
    """Hide all events of a stream, durably, and return its last version."""
    last_version = 0

    def change(rule: Rule) -> Rule:
        nonlocal last_version
        last_version = engine.versions([stream])[0]
        return delete(rule, stream, last_version, tombstone=tombstone, expected=expected)

    expectations = () if expected == ANY else (Expectation(0, stream, expected),)
    _change_policy(engine, stream, None, change, expectations)
    return last_version


def retention(engine: PolicyEngine, stream: str | None, category: str | None) -> Retention:
    """Return what is kept of a stream, by its and its category's policy, or of a category's streams."""
    rules = engine.rules()
    if stream is None:
        return retention_of(rules.categories.get(category or ""), 0)
    return retention_of(rules.rule_for(stream), engine.versions([stream])[0])


def policies(engine: PolicyEngine) -> list[PolicyInfo]:
    """Return every policy in force."""
    rules = engine.rules()
    own = [(name, rule) for name, rule in sorted(rules.streams.items()) if rule != KEEP_ALL]
    common = [(name, rule) for name, rule in sorted(rules.categories.items()) if rule != KEEP_ALL]
    versions = engine.versions([name for name, _ in own])
    return [
        *(
            PolicyInfo(name, None, retention_of(rule, version))
            for (name, rule), version in zip(own, versions, strict=True)
        ),
        *(PolicyInfo(None, name, retention_of(rule, 0)) for name, rule in common),
    ]


def _change_policy(
    engine: PolicyEngine,
    stream: str | None,
    category: str | None,
    change: Callable[[Rule], Rule],
    expectations: Sequence[Expectation] = (),
) -> None:
    """Append the changed policy to its stream; durable when this returns."""
    name = metadata_stream(stream=stream, category=category)
    while True:
        last = next(engine.read_stream(StreamSelection(name, limit=1, reverse=True)), None)
        rule = KEEP_ALL if last is None else decode_policy(last.data)
        changed = change(rule)
        if changed == rule:
            engine.flush()
            return
        event = (METADATA_TYPE, None, JSON_CODE, encode_policy(changed), None)
        here = Expectation(0, name, NO_STREAM if last is None else last.version)
        try:
            engine.append(AppendRequest.own(name, event, (here, *expectations)))
        except WrongExpectedVersion as error:
            if error.stream != name:
                raise
        else:
            return
