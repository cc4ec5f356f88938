"""The result of an append: the rules that the conformance suite cannot reach through an engine in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from evlog.engines.deciding import PendingAppend, content_digest, decide, removed_matches, removed_record
from evlog.errors import IdConflict, InvalidEvent, StreamTombstoned, WrongExpectedVersion
from evlog.model.appends import AppendRequest, Expectation, SchemasChanged
from evlog.model.events import EncodedEvent, Event
from evlog.model.history import RemovedRecord, Standing
from evlog.model.queries import IfNone
from evlog.model.retention import Rule, Rules


def event(number: int, type: str = "T", data: bytes = b"1") -> EncodedEvent:
    return (type, UUID(int=number).bytes, 0, data, None)


class View:
    """A log of one event, which is removed or not, and of one stream with a rule."""

    address = "here"
    head = 9
    time_us = 1 << 60
    standing = Standing()

    def __init__(self, stored: Event | RemovedRecord | None = None, rule: Rule | None = None) -> None:
        self.rules = Rules()
        if rule is not None:
            self.rules.streams["s"] = rule
        self._stored = (
            {} if stored is None else {stored[3 if isinstance(stored, RemovedRecord) else 4]: stored}
        )

    def known(self, ids: Sequence[bytes]) -> Mapping[bytes, Event | RemovedRecord]:
        return {id: self._stored[id] for id in ids if id in self._stored}

    def versions(self, streams: Sequence[str]) -> Mapping[str, int]:
        return {"s": 4} if "s" in streams else {}

    def first_match(self, condition: IfNone) -> int | None:
        return None


def append(*arguments: Any, **options: Any) -> PendingAppend:
    return PendingAppend(AppendRequest(*arguments, **options))


STORED = Event((3, 2, "s", "T", UUID(int=1).bytes, 5, 0, b"1", b'{"$tags":["x","y"]}'))


def test_positions_versions_and_times_follow_the_log() -> None:
    decision = decide(View(), append(["s", "t", "s"], [event(1), ("U", None, 0, b"2", None), event(3)]))
    assert [each[:4] for each in decision.new] == [(10, 5, "s", "T"), (11, 1, "t", "U"), (12, 6, "s", "T")]
    assert {each.time_us for each in decision.new} == {1 << 60}
    assert (decision.result.positions, decision.result.versions) == ([10, 11, 12], [5, 1, 6])
    assert decision.result.ids == [each.id_bytes for each in decision.new]


def test_ids_are_made_for_their_positions() -> None:
    request = append(["s", "s"], [event(1), ("U", None, 0, b"2", None)])
    asked = []

    def make(first: int, count: int) -> list[bytes]:
        asked.append((first, count))
        return [bytes(16)]

    assert decide(View(), request, make).new[1].id_bytes == bytes(16)
    assert asked == [(10, 1)]


@pytest.mark.parametrize("is_last", [True, False])
def test_a_retry_of_a_removed_event_is_a_duplicate_by_its_digest(is_last: bool) -> None:
    removed = removed_record(STORED, is_last=is_last)
    assert removed.time_us == (5 if is_last else 0)
    result = decide(View(removed), append(["s"], [event(1)], [Expectation(0, "s", 0)])).result
    assert (result.positions, result.versions, result.duplicates) == ([3], [2], [True])
    for stream, other in (("t", event(1)), ("s", event(1, "U")), ("s", event(1, data=b"2"))):
        with pytest.raises(IdConflict):
            decide(View(removed), append([stream], [other]))
    foreign = removed._replace(digest=b"another engine's")
    assert decide(View(foreign), append(["s"], [event(1, "U")])).result.duplicates == [True]


def test_an_id_that_is_given_twice_is_refused_unless_it_is_known() -> None:
    twice = append(["s", "s"], [event(1), event(1)])
    assert decide(View(STORED), twice).result.duplicates == [True, True]
    with pytest.raises(InvalidEvent):
        decide(View(), twice)
    skipping = append(["s", "s"], [event(1), event(1)], skip_known=True)
    result = decide(View(), skipping).result
    assert (result.positions, result.duplicates) == ([10, 10], [False, True])
    with pytest.raises(IdConflict):
        decide(View(), append(["s", "s"], [event(1), event(1, "U")], skip_known=True))


def test_a_content_digest_tells_its_fields_apart() -> None:
    assert len({content_digest("a", "bc", 0, b"d"), content_digest("ab", "c", 0, b"d"),
                content_digest("a", "b", 0, b"cd"), content_digest("a", "bc", 1, b"d")}) == 4  # fmt: skip


def test_what_was_made_by_evlog_is_not_a_duplicate_when_it_is_found() -> None:
    request = append(["s"], [("T", None, 0, b"1", None)])
    request.give_ids([STORED.id_bytes])
    assert decide(View(STORED), request).result.duplicates == [False]
    given = append(["s"], [event(1)])
    given.give_ids()
    assert decide(View(STORED), given).result.duplicates == [True]


def test_a_deleted_stream_does_not_exist_and_a_tombstone_refuses() -> None:
    for version in ("exists", 3):
        with pytest.raises(WrongExpectedVersion):
            decide(View(rule=Rule(deleted=4)), append(["s"], [event(1)], [Expectation(0, "s", version)]))
    for version in (0, 4, "any"):
        request = append(["s"], [event(1)], [Expectation(0, "s", version)])
        assert decide(View(rule=Rule(deleted=4)), request).new[0].version == 5
    with pytest.raises(StreamTombstoned):
        decide(View(rule=Rule(tombstone=True)), append(["s"], [event(1)]))


def test_other_schemas_are_answered_before_conditions() -> None:
    with pytest.raises(SchemasChanged):
        decide(View(), append(["s"], [event(1)], [Expectation(0, "s", 0)], schemas=1))


@pytest.mark.parametrize(
    ("query", "after", "matches"),
    [
        ("tag=x", 0, True),
        ("tag=x,tag=y", 2, True),
        ("tag=x", 3, False),
        ("type=T|U,tag=y", 0, True),
        ("type=U,tag=y", 0, False),
        ("tag=z", 0, False),
        ("type=T", 0, False),  # only tags of removed events are remembered
    ],
)
def test_removed_events_break_conditions_by_their_tags(query: str, after: int, matches: bool) -> None:
    assert removed_matches(IfNone(query, after), removed_record(STORED, is_last=False)) is matches
