"""The items of the table: their keys, and what is in them. Pure.

    PK              SK                    what
    LOG             HEAD                  where the log ends, and counters: `LogState`, replaced whole
    LOG             STAGED#run#n          keys of a mirror's items that are not committed yet: `history.py`
    STREAM#name     VERSION#version       an event; the index `by_position` has it in the order of the log
    HEADS           name                  the last version of a stream, and how many events are there: `Head`
    ID#uuid         ID                    where the event with this id is, and a digest of its content
    TAG#digest      position              an event with this tag, and the digests of its type and all its tags
    POLICIES        position              a retention policy, which is an event, too
    GAPS            position              an event that was removed, or the end of a range of lost positions
    RECORDS#kind    store's id, name …    a subscription, a parked event or a snapshot: `records.py`

Numbers in keys have 20 digits, so that their texts have their order. Outside of events only digests of tags
are kept, so that a removal or a redaction leaves no readable tag behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgpack

from evlog.engines.deciding import content_digest, encode_tags, tag_digests
from evlog.errors import CorruptionError, UnsupportedFormat
from evlog.model.events import CONTENT_TYPES, JSON_CODE, METADATA_PREFIX, TEXT_CODE, Event
from evlog.model.history import RemovedRecord, Standing
from evlog.model.named import NamedTuple
from evlog.model.retention import METADATA_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from evlog.engines.dynamodb.client import Item, Key
    from evlog.model.events import Record

FORMAT: Final = 1
INDEX: Final = "by_position"
LOG_KEY: Final = ("LOG", "HEAD")
HEADS: Final = "HEADS"
POLICIES: Final = "POLICIES"
GAPS: Final = "GAPS"
STAGED: Final = "STAGED#"
_VERSION: Final = "VERSION#"
_ID_BYTES: Final = 16
_CODES: Final = {name: code for code, name in enumerate(CONTENT_TYPES)}


def number(value: int) -> str:
    """Return a number as keys hold it."""
    return f"{value:020d}"


def version_key(version: int) -> str:
    """Return the sort key of an event."""
    return f"{_VERSION}{version:020d}"


def stream_key(stream: str) -> str:
    """Return the partition key of a stream's events."""
    return "STREAM#" + stream


def event_key(stream: str, version: int) -> Key:
    """Return the key of an event."""
    return stream_key(stream), version_key(version)


def id_key(id: bytes) -> Key:
    """Return the key of what is known of an id."""
    return f"ID#{id.hex()}", "ID"


def tag_key(digest: bytes, position: int) -> Key:
    """Return the key of an event's tag."""
    return f"TAG#{digest.hex()}", number(position)


# --- values


def number_in(item: Item, name: str) -> int:
    """Return a number in an item. Raises CorruptionError, as all of these: another program has changed it."""
    try:
        return int(item[name]["N"])
    except (LookupError, ValueError):
        raise damaged(item, name) from None


def text_in(item: Item, name: str) -> str:
    """Return a text in an item."""
    text: str = _value_in(item, name, "S")
    return text


def bytes_in(item: Item, name: str) -> bytes:
    """Return bytes in an item."""
    raw: bytes = _value_in(item, name, "B")
    return raw


def id_in(item: Item) -> bytes:
    """Return the id of an event in an item."""
    id = bytes_in(item, "id")
    if len(id) != _ID_BYTES:
        raise damaged(item, "id")
    return id


def raw_in(item: Item, name: str) -> bytes:
    """Return the bytes of a value that `_value` has made."""
    try:
        value = item[name]
        raw: bytes = value["S"].encode() if "S" in value else value["B"]
        return raw
    except LookupError:
        raise damaged(item, name) from None


def number_of_key(item: Item, prefix: str = "") -> int:
    """Return the number in an item's sort key, which may have a prefix."""
    try:
        return int(item["SK"]["S"].removeprefix(prefix))
    except ValueError:
        raise damaged(item, "SK") from None


def damaged(item: Item, name: str) -> CorruptionError:
    """Return the error for an item with a value that evlog has not written."""
    key = f"item {item['PK']['S']} {item['SK']['S']}"
    return CorruptionError(key, None, f"its value {name!r} is missing, or not what evlog has written")


def _value_in(item: Item, name: str, kind: str) -> Any:
    try:
        return item[name][kind]
    except LookupError:
        raise damaged(item, name) from None


# --- events


def encode_event(event: Event, frame: int) -> Item:
    """Return the item of an event; `frame` is the position of the first event of its append."""
    position, version, stream, type, id, time_us, code, data, metadata = event
    item: Item = {
        "PK": {"S": stream_key(stream)},
        "SK": {"S": version_key(version)},
        "log": {"S": "LOG"},
        "position": {"N": str(position)},
        "stream": {"S": stream},
        "type": {"S": type},
        "id": {"B": id},
        "time": {"N": str(time_us)},
        "frame": {"N": str(frame)},
        "data": _value(data, code in (JSON_CODE, TEXT_CODE)),
    }
    if code:
        item["content_type"] = {"S": CONTENT_TYPES[code]}
    if metadata is not None:
        item["metadata"] = _value(metadata, True)
    return item


def _value(raw: bytes, is_text: bool) -> dict[str, Any]:
    """Return bytes as a text where they are one: for readers' eyes, and a third shorter on the wire."""
    if is_text:
        try:
            return {"S": raw.decode()}
        except UnicodeDecodeError:
            pass  # of a mirror's foreign source: kept as it is
    return {"B": raw}


def decode_event(item: Item) -> Event:
    """Return the event in an item. Raises CorruptionError, as all that decodes items."""
    code = _CODES.get(text_in(item, "content_type")) if "content_type" in item else JSON_CODE
    if code is None:
        raise damaged(item, "content_type")
    return Event(
        (
            number_in(item, "position"),
            number_of_key(item, _VERSION),
            text_in(item, "stream"),
            text_in(item, "type"),
            id_in(item),
            number_in(item, "time"),
            code,
            raw_in(item, "data"),
            raw_in(item, "metadata") if "metadata" in item else None,
        )
    )


def derived_items(event: Event) -> list[Item]:
    """Return the items that an event needs beside its own: its id, its tags, its policy."""
    position, version, stream, type, id, _, code, data, _ = event
    digest = b"" if event.redacted else content_digest(stream, type, code, data)
    items = [encode_id(RemovedRecord(position, version, stream, id, digest, 0))]
    items += tag_items(position, stream, version, encode_tags(event))
    if is_policy(event):
        items.append(
            {
                "PK": {"S": POLICIES},
                "SK": {"S": number(position)},
                "stream": {"S": stream},
                "data": _value(data, True),
            }
        )
    return items


def is_policy(event: Event) -> bool:
    """Return whether an event is a retention policy."""
    return event.type == METADATA_TYPE and event.stream.startswith(METADATA_PREFIX)


def encode_id(known: RemovedRecord) -> Item:
    """Return the item of an id, whose event may be there or removed."""
    key = id_key(known.id)
    return {
        "PK": {"S": key[0]},
        "SK": {"S": key[1]},
        "at": {"N": str(known.position)},
        "version": {"N": str(known.version)},
        "stream": {"S": known.stream},
        "digest": {"B": known.digest},
    }


def decode_id(item: Item) -> RemovedRecord:
    """Return what is known of an id."""
    place = (number_in(item, "at"), number_in(item, "version"), text_in(item, "stream"))
    return RemovedRecord(*place, bytes.fromhex(item["PK"]["S"][3:]), bytes_in(item, "digest"), 0)


def tag_items(position: int, stream: str, version: int, tags: bytes) -> list[Item]:
    """Return the items of an event's tags, of which `tags` has the digests; none of another engine's."""
    return [
        {
            "PK": {"S": (key := tag_key(digest, position))[0]},
            "SK": {"S": key[1]},
            "stream": {"S": stream},
            "version": {"N": str(version)},
            "tags": {"B": tags},
        }
        for digest in dict.fromkeys(tag_digests(tags))
    ]


def decode_tag(item: Item) -> RemovedRecord:
    """Return where an event with a tag is, and what is kept of its tags; without its id."""
    place = (number_of_key(item), number_in(item, "version"), text_in(item, "stream"))
    return RemovedRecord(*place, b"", b"", 0, bytes_in(item, "tags"))


def decode_policy(item: Item) -> Record:
    """Return a retention policy as the record of an event."""
    stream, data = text_in(item, "stream"), raw_in(item, "data")
    return number_of_key(item), 0, stream, METADATA_TYPE, b"", 0, 0, data, None


# --- what is not there


def encode_removed(removed: RemovedRecord) -> Item:
    """Return the item of a removed event."""
    return {
        "PK": {"S": GAPS},
        "SK": {"S": number(removed.position)},
        "first": {"N": str(removed.position)},
        "version": {"N": str(removed.version)},
        "stream": {"S": removed.stream},
        "id": {"B": removed.id},
        "digest": {"B": removed.digest},
        "time": {"N": str(removed.time_us)},
        "tags": {"B": removed.tags},
    }


def encode_lost(first: int, last: int) -> Item:
    """Return the item of positions that the source of a mirror had lost."""
    return {"PK": {"S": GAPS}, "SK": {"S": number(last)}, "first": {"N": str(first)}}


def decode_gap(item: Item) -> tuple[int, int]:
    """Return the first and the last of the positions that an item says are not there."""
    return number_in(item, "first"), number_of_key(item)


def decode_removed(item: Item) -> RemovedRecord | None:
    """Return the removed event in an item; None if it is a range of lost positions."""
    if "id" not in item:
        return None
    return RemovedRecord(
        number_of_key(item),
        number_in(item, "version"),
        text_in(item, "stream"),
        id_in(item),
        bytes_in(item, "digest"),
        number_in(item, "time"),
        bytes_in(item, "tags"),
    )


# --- streams


class Head(NamedTuple):
    """A stream: its last version, how many events are there, and when the last was written."""

    version: int = 0
    events: int = 0
    time_us: int = 0


def encode_head(stream: str, head: Head, before: Head | None = None, at: int = 0) -> Item:
    """Return the item of a stream; `before` is what it was until the log reaches the position `at`."""
    item = {"PK": {"S": HEADS}, "SK": {"S": stream}, **_head_fields(head)}
    if before is not None:
        item["before"] = {"M": _head_fields(before)}
        item["at"] = {"N": str(at)}
    return item


def _head_fields(head: Head) -> Item:
    names = ("version", "events", "time")
    return {name: {"N": str(value)} for name, value in zip(names, head, strict=True)}


def decode_head(item: Item, position: int) -> Head:
    """Return a stream as it is in a log that ends at a position."""
    if "at" in item and number_in(item, "at") > position:
        item = item | _value_in(item, "before", "M")
    return Head(*(number_in(item, name) for name in ("version", "events", "time")))


# --- the log


class LogState(NamedTuple):
    """Where the log ends, and what there is. Each change of the store has the next revision."""

    store_id: str
    revision: int = 0
    position: int = 0
    time_us: int = 0
    """of the last event: no later one is older"""
    events: int = 0
    """without the store's own"""
    streams: int = 0
    """the same"""
    size: int = 0
    """bytes of data and metadata"""
    policies: int = 0
    """how many policy events there were ever"""
    schemas: int = 0
    """the version of the stream of schemas"""
    redactions: int = 0
    """how many redactions there are"""
    erased: int = 0
    """of how many of them the bytes are erased"""
    removed: int = 0
    """events that compactions have removed"""
    lost: int = 0
    """of a mirror: positions that its source had lost"""
    staged: int = 0
    """of a mirror: the end of the piece that is being written; 0: none is"""
    mirror_of: str = ""
    moved_to: str = ""
    owner: str = ""
    """the writer that holds the lease"""
    until_us: int = 0
    """when the lease ends, µs since 1970"""
    run: str = ""
    """of a mirror: the run that writes the piece, or deletes what is left of one"""

    @property
    def has_gaps(self) -> bool:
        """Whether positions are missing."""
        return bool(self.removed or self.lost)

    @property
    def standing(self) -> Standing:
        """What the store is to others now."""
        return Standing(self.mirror_of, self.moved_to)


_TEXTS: Final = frozenset({"store_id", "mirror_of", "moved_to", "owner", "run"})


def encode_log(state: LogState) -> Item:
    """Return the item of the log."""
    item: Item = {
        name: {"S": value} if name in _TEXTS else {"N": str(value)}
        for name, value in zip(LogState._fields, state, strict=True)
    }
    return {"PK": {"S": LOG_KEY[0]}, "SK": {"S": LOG_KEY[1]}, "format": {"N": str(FORMAT)}, **item}


def decode_log(item: Item, address: str) -> LogState:
    """Return the state in the item of the log.

    Raises:
        CorruptionError: another program has changed it.
        UnsupportedFormat: a newer evlog has changed the store, perhaps since it was opened here. It raises
            the revision, too, so a writer that remembers an older state is refused, and then reads this.
    """
    found = number_in(item, "format")
    if found > FORMAT:
        raise UnsupportedFormat(address, found, FORMAT)
    fields = (text_in(item, name) if name in _TEXTS else number_in(item, name) for name in LogState._fields)
    return LogState._make(fields)


# --- what a mirror has put


def encode_note(name: str, keys: Sequence[Key]) -> Item:
    """Return the item that notes the keys of items that are not committed yet."""
    return {"PK": {"S": LOG_KEY[0]}, "SK": {"S": name}, "keys": {"B": msgpack.packb(keys)}}


def decode_note(item: Item) -> list[Key]:
    """Return the keys that an item notes."""
    try:
        return [(partition, sort) for partition, sort in msgpack.unpackb(bytes_in(item, "keys"))]
    except (ValueError, TypeError, msgpack.UnpackException):
        raise damaged(item, "keys") from None
