"""Items of the table that another program has changed: each is reported as damaged, by its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from evlog.engines.dynamodb import items, records
from evlog.engines.dynamodb.items import Head, LogState
from evlog.errors import CorruptionError
from evlog.model.events import BINARY_CODE, JSON_CODE, Event
from evlog.model.history import RemovedRecord
from evlog.model.retention import METADATA_TYPE

Item = dict[str, dict[str, Any]]

ID = UUID(int=7).bytes
REMOVED = RemovedRecord(5, 2, "a-1", ID, b"digest", 3, b"\1" + bytes(32))


def event(code: int, stream: str = "a-1", type: str = "T") -> Event:
    return Event((5, 2, stream, type, ID, 3, code, b'{"$maxCount":1}', b'{"$tags":["k:1"]}'))


def decode_frame(item: Item) -> object:
    return items.decode_event(item), items.number_in(item, "frame")


def record(value: bytes) -> Item:
    return {"PK": {"S": "RECORDS#n"}, "SK": {"S": "s"}, "revision": {"N": "1"}, "value": {"B": value}}


ID_ITEM, TAG_ITEM = items.derived_items(event(JSON_CODE))
POLICY_ITEM = items.derived_items(event(JSON_CODE, "$$a-1", METADATA_TYPE))[-1]
KINDS: dict[str, tuple[Item, Callable[[Item], object]]] = {
    "event": (items.encode_event(event(JSON_CODE), 4), decode_frame),
    "binary event": (items.encode_event(event(BINARY_CODE), 4), decode_frame),
    "id": (ID_ITEM, items.decode_id),
    "tag": (TAG_ITEM, items.decode_tag),
    "policy": (POLICY_ITEM, items.decode_policy),
    "removed": (
        items.encode_removed(REMOVED),
        lambda item: (items.decode_gap(item), items.decode_removed(item)),
    ),
    "lost": (items.encode_lost(3, 5), items.decode_gap),
    "head": (items.encode_head("a-1", Head(2, 2, 3)), lambda item: items.decode_head(item, 9)),
    "staged head": (
        items.encode_head("a-1", Head(2, 2, 3), Head(1, 1, 1), 10),
        lambda item: items.decode_head(item, 9),
    ),
    "log": (items.encode_log(LogState("id", owner="o", run="r")), lambda item: items.decode_log(item, "a")),
    "note": (items.encode_note("STAGED#r#1", [("P", "S")]), items.decode_note),
    "record": (record(b"{}"), records._record),
}
# What is optional, or not looked at: an event without metadata is one, too.
_MAY_BE_MISSING = {"content_type", "metadata", "at", "before"}
_NOT_READ = {"staged head": ("version", "events", "time"), "log": ()}


def _changed(kind: str, item: Item) -> Iterator[tuple[str, Item]]:
    """Iterate over an item with one value missing, of another type, or no number."""
    for name, value in item.items():
        if name == "PK" or name in _NOT_READ.get(kind, ("log",)):
            continue
        if name not in ("SK", *_MAY_BE_MISSING) and (kind, name) != ("removed", "id"):
            yield name, {key: each for key, each in item.items() if key != name}
        if name != "SK":
            yield name, item | {name: {"BOOL": True}}
        if "N" in value:
            yield name, item | {name: {"N": "1.5"}}
    if kind not in ("id", "head", "staged head", "log", "note", "record"):
        yield "SK", item | {"SK": {"S": "VERSION"}}
    if "id" in item:
        yield "id", item | {"id": {"B": b"short"}}
    if kind == "binary event":
        yield "content_type", item | {"content_type": {"S": "other"}}
    if kind == "staged head":
        yield "version", item | {"before": {"M": {"version": {"S": "x"}}}}
    if kind == "note":
        yield "keys", item | {"keys": {"B": b"\xc1"}}
        yield "keys", item | {"keys": {"B": b"\x05"}}


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_another_program_has_changed_is_damaged(kind: str) -> None:
    item, decode = KINDS[kind]
    decode(item)
    count = 0
    for name, bad in _changed(kind, item):
        with pytest.raises(CorruptionError) as caught:
            raise AssertionError(f"{name} in {bad}: {decode(bad)!r}")
        assert caught.value.path == f"item {bad['PK']['S']} {bad['SK']['S']}"
        assert repr(name) in caught.value.detail
        assert "salvage" not in str(caught.value)
        count += 1
    assert count > 1
