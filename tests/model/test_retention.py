"""What a rule hides, in numbers; and rules as words, as events, as a list that JSON can hold."""

from __future__ import annotations

import json

import pytest

from evlog.model.events import Record
from evlog.model.reports import Retention, retention_of
from evlog.model.retention import (
    KEEP_ALL,
    Rule,
    Rules,
    decode_policy,
    encode_policy,
    first_visible_version,
    hides,
    metadata_stream,
    visible_since_us,
)


def record(version: int, time_us: int = 0, stream: str = "s", type: str = "T", data: bytes = b"") -> Record:
    return (version, version, stream, type, bytes(16), time_us, 0, data, None)


@pytest.mark.parametrize(
    ("rule", "last_version", "first"),
    [
        (None, 10, 1),
        (KEEP_ALL, 10, 1),
        (Rule(max_count=3), 10, 8),
        (Rule(max_count=10), 10, 1),
        (Rule(max_count=3), 0, 1),
        (Rule(truncate_before=4), 10, 4),
        (Rule(truncate_before=11), 10, 11),
        (Rule(max_count=3, truncate_before=4), 10, 8),
        (Rule(deleted=6), 10, 7),
        (Rule(truncate_before=4, deleted=6), 10, 7),
        (Rule(truncate_before=9, deleted=6), 10, 9),
        (Rule(max_count=3, truncate_before=9), 10, 9),
        (Rule(tombstone=True), 10, 11),
        (Rule(max_age_us=1), 10, 1),
    ],
)
def test_counts_and_versions_leave_the_last_ones(rule: Rule | None, last_version: int, first: int) -> None:
    assert first_visible_version(rule, last_version) == first
    for version in range(1, last_version + 1):
        if rule != Rule(max_age_us=1):
            assert hides(rule, record(version), last_version, now_us=0) == (version < first)


def test_age_is_counted_from_the_moment_of_the_read() -> None:
    rule = Rule(max_age_us=100)
    assert visible_since_us(rule, 1000) == 900
    assert [hides(rule, record(1, time_us), 5, 1000) for time_us in (899, 900, 901)] == [True, False, False]
    assert visible_since_us(KEEP_ALL, 1000) is visible_since_us(None, 1000) is None


@pytest.mark.parametrize(
    ("rule", "last_version", "deleted"),
    [
        (Rule(deleted=3), 3, True),
        (Rule(deleted=3), 4, False),
        (Rule(deleted=3), 0, False),
        (Rule(truncate_before=4), 3, False),
        (Rule(tombstone=True), 0, True),
        (Rule(max_count=1, max_age_us=1), 3, False),
    ],
)
def test_only_a_deletion_makes_a_stream_not_exist(rule: Rule, last_version: int, deleted: bool) -> None:
    assert rule.is_deleted(last_version) is deleted
    assert retention_of(rule, last_version).deleted is deleted


def test_users_see_seconds() -> None:
    kept = retention_of(Rule(5, 90_000_000, 3), 10)
    assert kept == Retention(5, 90, 3, deleted=False, tombstone=False)
    assert kept.max_age is not None
    assert kept.max_age.total_seconds() == 90
    assert retention_of(None, 10) == Retention()
    assert Retention().max_age is None


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (KEEP_ALL, {}),
        (Rule(max_count=5), {"$maxCount": 5}),
        (Rule(max_age_us=60_000_000), {"$maxAge": 60}),
        (Rule(truncate_before=7), {"$tb": 7}),
        (Rule(deleted=9), {"$deleted": 9}),
        (Rule(1, 1_000_000, 2, tombstone=True), {"$maxCount": 1, "$maxAge": 1, "$tb": 2, "$tombstone": True}),
    ],
)
def test_a_policy_is_written_in_kurrentdbs_words(rule: Rule, words: dict[str, object]) -> None:
    assert json.loads(encode_policy(rule)) == words
    assert decode_policy(encode_policy(rule)) == rule


_INVALID = [b"", b"\xff", b"[]", b"1", b"[" * 9999, b'{"$tb":' + b"9" * 5000 + b"}"]
_INVALID += [b'{"$maxCount":0}', b'{"$maxCount":-1,"$maxAge":"x","$tb":null}', b'{"$deleted":-1}']
_INVALID += [b'{"$maxCount":true}', b'{"$maxCount":1.5}', b'{"$tombstone":1}', b'{"other":1}']


@pytest.mark.parametrize("data", _INVALID)
def test_what_is_not_a_policy_hides_nothing(data: bytes) -> None:
    assert decode_policy(data) == KEEP_ALL


def test_a_streams_word_goes_before_its_categorys() -> None:
    rules = Rules()
    rules.categories["a"] = Rule(max_count=5, max_age_us=50)
    rules.streams["a-1"] = Rule(max_count=2)
    rules.streams["a-2"] = Rule(max_age_us=20, truncate_before=3)
    rules.streams["b-1"] = Rule(max_count=7)
    assert rules.rule_for("a-1") == Rule(2, 50)
    assert rules.rule_for("a-2") == Rule(5, 20, 3)
    assert rules.rule_for("a") == rules.rule_for("a-3") == Rule(5, 50)
    assert rules.rule_for("b-1") == Rule(7)
    assert rules.rule_for("b") is rules.rule_for("ab-1") is None


def test_a_category_neither_cuts_nor_forbids() -> None:
    rules = Rules()
    rules.categories["a"] = Rule(5, None, 9, deleted=9, tombstone=True)
    assert rules.rule_for("a-1") == Rule(5)
    rules.streams["a-1"] = KEEP_ALL
    assert rules.rule_for("a-1") == Rule(5)


def test_of_policies_only_the_last_counts_and_other_streams_of_the_store_are_kept() -> None:
    rules = Rules()
    rules.categories["$$a"] = Rule(max_count=9)
    assert rules.rule_for("$$a-1") == rules.rule_for("$$$ce-a") == Rule(max_count=1)
    assert rules.rule_for("$compactions") is None


def test_policies_are_told_by_type_and_stream() -> None:
    rules = Rules()
    policy = b'{"$maxCount":3}'
    rules.add(record(1, stream="$$a-1", type="$metadata", data=policy))
    rules.add(record(1, stream="$$$ce-b", type="$metadata", data=policy))
    rules.add(record(1, stream="$$c", type="Other", data=policy))
    rules.add(record(1, stream="d", type="$metadata", data=policy))
    rules.add(record(1, stream="$compactions", type="$metadata", data=policy))
    assert rules.streams == {"a-1": Rule(3)}
    assert rules.categories == {"b": Rule(3)}
    rules.add(record(2, stream="$$a-1", type="$metadata", data=b"{}"))
    assert rules.streams == {"a-1": KEEP_ALL}


def test_later_rules_replace_earlier_ones() -> None:
    earlier, later = Rules(), Rules()
    earlier.streams.update({"a": Rule(1), "b": Rule(2)})
    later.streams["b"] = KEEP_ALL
    later.categories["c"] = Rule(3)
    earlier.update(later)
    assert earlier.streams == {"a": Rule(1), "b": KEEP_ALL}
    assert earlier.categories == {"c": Rule(3)}


def test_rules_are_listed_in_words_by_name() -> None:
    rules = Rules()
    rules.streams.update({"b": Rule(5), "a": Rule(None, 60_000_000, 7, tombstone=True), "gone": KEEP_ALL})
    rules.categories["c"] = Rule(max_count=2)
    data = rules.as_data()
    assert data == [
        {"stream": "a", "$maxAge": 60, "$tb": 7, "$tombstone": True},
        {"stream": "b", "$maxCount": 5},
        {"category": "c", "$maxCount": 2},
    ]


def test_metadata_streams_are_named_as_in_kurrentdb() -> None:
    assert metadata_stream(stream="order-42") == "$$order-42"
    assert metadata_stream(category="order") == "$$$ce-order"
