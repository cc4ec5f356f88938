"""Opening the table: creating it, and making a store of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from evlog.engines.dynamodb.client import Refused
from evlog.engines.dynamodb.items import INDEX, LOG_KEY, LogState, damaged, decode_log, encode_log
from evlog.errors import EngineError, ServerUnsuitable, StoreNotFound, StoreUnreachable

if TYPE_CHECKING:
    from typing import Any

    from evlog.engines.dynamodb.client import Client

_CREATE_SECONDS: Final = 120.0
_KEYS: Final = [("PK", "HASH"), ("SK", "RANGE")]
_INDEX_KEYS: Final = [("log", "HASH"), ("position", "RANGE")]
_TYPES: Final = {"PK": "S", "SK": "S", "log": "S", "position": "N"}


def open_table(client: Client, *, create: bool) -> tuple[str, bool]:
    """Return the store's id, and whether it was created.

    Raises:
        StoreNotFound: there is no such table, or no store in it, and `create` is false.
        UnsupportedFormat, ServerUnsuitable: its format is newer, or the table has other keys.
    """
    try:
        item = client.get(LOG_KEY)
    except StoreNotFound:
        if not create:
            raise StoreNotFound(client.address.text) from None
        item = None
        create_table(client)
    except EngineError as error:
        if "ValidationException" in error.reason:  # another program's table, with other keys
            raise _unsuitable(client) from None
        raise
    if item is None:
        if not create:
            raise StoreNotFound(client.address.text)
        _check_keys(client)
        state = LogState(str(uuid4()))
        try:
            client.put(encode_log(state), "attribute_not_exists(PK)")
        except Refused:  # by another process's item, or by this one's, if a first answer was lost
            there = open_table(client, create=False)[0]
            return there, there == state.store_id
        return state.store_id, True
    if "format" not in item:
        raise _unsuitable(client)
    store_id = decode_log(item, client.address.text).store_id
    try:
        return str(UUID(store_id)), False
    except ValueError:
        raise damaged(item, "store_id") from None


def create_table(client: Client) -> None:
    """Create the table, and wait until it and its index can be used; another process may be faster."""
    try:
        client.call(
            "create_table",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": type} for name, type in _TYPES.items()
            ],
            KeySchema=_schema(_KEYS),
            GlobalSecondaryIndexes=[
                {
                    "IndexName": INDEX,
                    "KeySchema": _schema(_INDEX_KEYS),
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
        )
    except EngineError as error:
        if "ResourceInUseException" not in error.reason:
            raise
    deadline = time.monotonic() + _CREATE_SECONDS
    while not _is_ready(client):
        if time.monotonic() >= deadline:
            raise StoreUnreachable(client.address.text, "the table is still being created")
        time.sleep(0.2)


def _schema(keys: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": kind} for name, kind in keys]


def _describe(client: Client) -> Any:
    return client.call("describe_table")["Table"]


def _is_ready(client: Client) -> bool:
    try:
        table = _describe(client)
    except StoreNotFound:  # the service may not show it at once
        return False
    states = [table["TableStatus"], *(index["IndexStatus"] for index in _indexes(table).values())]
    return set(states) == {"ACTIVE"}


def _check_keys(client: Client) -> None:
    table = _describe(client)
    types = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    index = _indexes(table).get(INDEX, {"KeySchema": None})
    if (table["KeySchema"], index["KeySchema"]) != (_schema(_KEYS), _schema(_INDEX_KEYS)):
        raise _unsuitable(client)
    if _TYPES.items() - types.items() or index["Projection"]["ProjectionType"] != "ALL":
        raise _unsuitable(client)


def _indexes(table: Any) -> dict[str, Any]:
    return {index["IndexName"]: index for index in table.get("GlobalSecondaryIndexes", ())}


def _unsuitable(client: Client) -> ServerUnsuitable:
    reason = f"the table, or its index {INDEX}, has other keys or items than evlog's"
    return ServerUnsuitable(client.address.text, reason, "name a table that does not exist yet")
