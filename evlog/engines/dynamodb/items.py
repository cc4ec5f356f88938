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

from evlog.engines.deciding import content_digest, encode_tags, tag_digests
from evlog.errors import UnsupportedFormat
from evlog.model.events import CONTENT_TYPES, JSON_CODE, METADATA_PREFIX, TEXT_CODE, Event
from evlog.model.history import RemovedRecord, Standing
from evlog.model.named import NamedTuple
from evlog.model.retention import METADATA_TYPE

if TYPE_CHECKING:
    from typing import Any

    from evlog.engines.dynamodb.client import Item, Key

FORMAT: Final = 1
INDEX: Final = "by_position"
LOG_KEY: Final = ("LOG", "HEAD")
HEADS: Final = "HEADS"
POLICIES: Final = "POLICIES"
GAPS: Final = "GAPS"
STAGED: Final = "STAGED#"
_CODES: Final = {name: code for code, name in enumerate(CONTENT_TYPES)}


def number(value: int) -> str:
    """Return a number as keys hold it."""
    return f"{value:020d}"


def version_key(version: int) -> str:
    """Return the sort key of an event."""
    return f"VERSION#{version:020d}"


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


def raw_of(value: dict[str, Any]) -> bytes:
    """Return the bytes of a value."""
    raw: bytes = value["S"].encode() if "S" in value else value["B"]
    return raw


def decode_event(item: Item) -> Event:
    """Return the event in an item."""
    code = item.get("content_type")
    metadata = item.get("metadata")
    return Event(
        (
            int(item["position"]["N"]),
            int(item["SK"]["S"][8:]),
            item["stream"]["S"],
            item["type"]["S"],
            item["id"]["B"],
            int(item["time"]["N"]),
            JSON_CODE if code is None else _CODES[code["S"]],
            raw_of(item["data"]),
            None if metadata is None else raw_of(metadata),
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
    place = (int(item["at"]["N"]), int(item["version"]["N"]), item["stream"]["S"])
    return RemovedRecord(*place, bytes.fromhex(item["PK"]["S"][3:]), item["digest"]["B"], 0)


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


def decode_removed(item: Item) -> RemovedRecord | None:
    """Return the removed event in an item; None if it is a range of lost positions."""
    if "id" not in item:
        return None
    return RemovedRecord(
        int(item["SK"]["S"]),
        int(item["version"]["N"]),
        item["stream"]["S"],
        item["id"]["B"],
        item["digest"]["B"],
        int(item["time"]["N"]),
        item["tags"]["B"],
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
    fields: Any = item
    if "at" in item and int(item["at"]["N"]) > position:
        fields = item["before"]["M"]
    return Head(*(int(fields[name]["N"]) for name in ("version", "events", "time")))


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
        UnsupportedFormat: a newer evlog has changed the store, perhaps since it was opened here. It raises
            the revision, too, so a writer that remembers an older state is refused, and then reads this.
    """
    found = int(item["format"]["N"])
    if found > FORMAT:
        raise UnsupportedFormat(address, found, FORMAT)
    names = [name for name in LogState._fields if name in item]
    fields: dict[str, Any] = {
        name: item[name]["S"] if name in _TEXTS else int(item[name]["N"]) for name in names
    }
    return LogState(**fields)
