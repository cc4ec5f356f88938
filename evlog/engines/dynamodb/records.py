"""Subscriptions, parked events and snapshots: items with a revision. See `evlog.engines.keyed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

from evlog.engines.dynamodb.client import Refused
from evlog.engines.dynamodb.items import bytes_in, number_in
from evlog.engines.keyed import Record
from evlog.errors import StoreUnreachable, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evlog.engines.dynamodb.client import Client, Item, Key

_BETWEEN: Final = "\t"  # no part of a key can hold it
_MAX_BYTES: Final = 390_000
_NAMES: Final = {"#r": "revision"}


class Records:
    """An `evlog.engines.keyed.KeyValue`."""

    engine = "dynamodb"

    def __init__(self, client: Client) -> None:
        self._client = client
        self.address = client.address.text

    def get(self, key: tuple[str, ...]) -> Record | None:
        item = self._client.get(_key_of(key))
        return None if item is None else _record(item)

    def put(self, key: tuple[str, ...], value: bytes, revision: int | None) -> int | None:
        """Write a record durably if the present one has this revision; return the new one, else None.

        A record that is made has any revision, so that none that was deleted before had the same.
        """
        if len(value) > _MAX_BYTES:
            raise Unsupported(self.engine, f"records of more than {_MAX_BYTES} bytes")
        place = _key_of(key)
        new = uuid4().int >> 66 if revision is None else revision + 1
        item: Item = {
            "PK": {"S": place[0]},
            "SK": {"S": place[1]},
            "revision": {"N": str(new)},
            "value": {"B": value},
        }
        condition, values = "attribute_not_exists(PK)", None
        if revision is not None:
            condition, values = "#r = :r", {":r": {"N": str(revision)}}
        try:
            self._client.put(item, condition, values, None if revision is None else _NAMES)
        except (Refused, StoreUnreachable) as error:
            # botocore sends a call again whose answer was lost: this may be what the first one has written.
            record = self.get(key)
            if record == Record(value, new):
                return new
            if isinstance(error, StoreUnreachable) and (record and record.revision) == revision:
                raise  # it is as it was: no other writer has replaced it
            return None
        return new

    def delete(self, key: tuple[str, ...], revision: int) -> bool:
        try:
            self._client.delete(_key_of(key), "#r = :r", {":r": {"N": str(revision)}}, _NAMES)
        except Refused:
            return False
        return True

    def list(self, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Record]]:
        partition, first = _key_of((*prefix, ""))
        for item in self._client.query(partition, first, first + "\U0010ffff"):
            yield (prefix[0], *item["SK"]["S"].split(_BETWEEN)), _record(item)


def _key_of(key: tuple[str, ...]) -> Key:
    return f"RECORDS#{key[0]}", _BETWEEN.join(key[1:])


def _record(item: Item) -> Record:
    return Record(bytes_in(item, "value"), number_in(item, "revision"))
