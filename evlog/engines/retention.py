"""Retention policies and redactions, which are events of the store's own: changing and telling them.

For engines that keep policies as events and know the rules that these make: the directory has its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from evlog.engine import Engine
from evlog.errors import WrongExpectedVersion
from evlog.model.appends import ANY, NO_STREAM, AppendRequest, Expectation
from evlog.model.events import JSON_CODE
from evlog.model.filters import StreamSelection
from evlog.model.policy_changes import delete
from evlog.model.redaction import RedactionResult, encode_redaction
from evlog.model.reports import PolicyInfo, retention_of
from evlog.model.retention import (
    KEEP_ALL,
    METADATA_TYPE,
    REDACTIONS_STREAM,
    decode_policy,
    encode_policy,
    metadata_stream,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evlog.model.appends import ExpectedVersion
    from evlog.model.events import Event
    from evlog.model.policy_changes import PolicyChange
    from evlog.model.reports import Retention
    from evlog.model.retention import Rule, Rules


class PolicyEngine(Engine, Protocol):
    """An engine that keeps policies as events."""

    def rules(self) -> Rules:
        """Return the rules in force now."""

    def flush(self) -> None:
        """Return once all that was appended is durable."""

    def erase(self) -> None:
        """Erase the content of every redacted event; durable when this returns."""


class KeepsPolicies:
    """The methods of an engine that keeps policies as events. A base class of engines, without state."""

    def set_retention(self: PolicyEngine, change: PolicyChange) -> None:
        """Set the given parts of a policy, durably."""

        def version_of(stream: str) -> int:
            return self.versions([stream])[0]

        _change_policy(self, change.stream, change.category, lambda rule: change.apply(rule, version_of))

    def retention(self: PolicyEngine, stream: str | None, category: str | None) -> Retention:
        """Return what is kept of a stream, by its and its category's policy, or of a category's streams."""
        rules = self.rules()
        if stream is None:
            return retention_of(rules.categories.get(category or ""), 0)
        return retention_of(rules.rule_for(stream), self.versions([stream])[0])

    def policies(self: PolicyEngine) -> list[PolicyInfo]:
        """Return every policy in force."""
        rules = self.rules()
        names = sorted(rules.streams)
        versions = dict(zip(names, self.versions(names), strict=True))
        own = [
            PolicyInfo(name, None, retention_of(rule, versions[name]))
            for name, rule in sorted(rules.streams.items())
            if rule != KEEP_ALL
        ]
        common = [
            PolicyInfo(None, name, retention_of(rule, 0))
            for name, rule in sorted(rules.categories.items())
            if rule != KEEP_ALL
        ]
        return own + common

    def redact(self: PolicyEngine, events: Sequence[Event], reason: str) -> RedactionResult:
        """Erase the content of these events, durably: for readers by the redaction, then where it is kept."""
        position = 0
        if events:
            request = AppendRequest.own(REDACTIONS_STREAM, encode_redaction(events, reason))
            (position,) = self.append(request).positions
        self.erase()
        return RedactionResult(tuple(event.position for event in events), (), position, erased=True)

    def delete_stream(self: PolicyEngine, stream: str, *, tombstone: bool, expected: ExpectedVersion) -> int:
        """Hide all events of a stream, durably, and return its last version."""
        last_version = 0

        def change(rule: Rule) -> Rule:
            nonlocal last_version
            last_version = self.versions([stream])[0]
            return delete(rule, stream, last_version, tombstone=tombstone, expected=expected)

        expectations = () if expected == ANY else (Expectation(0, stream, expected),)
        _change_policy(self, stream, None, change, expectations)
        return last_version


def _change_policy(
    engine: PolicyEngine,
    stream: str | None,
    category: str | None,
    change: Callable[[Rule], Rule],
    expectations: Sequence[Expectation] = (),
) -> None:
    """Append the changed policy to its stream, again if another change was first."""
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
