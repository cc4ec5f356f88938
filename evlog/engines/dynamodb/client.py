"""The service's client: where a store is, calls of botocore, and its errors as evlog's.

1. Credentials come from AWS's own chain (environment, profile, SSO, role), never from the URL.
2. Every read is strongly consistent, but those of an index, which cannot be.
3. A forked child makes a client of its own: connections of the parent's pool stay with the parent.
4. botocore sends a call again and returns the last answer. If that is a refusal, an earlier attempt that was
   not answered may have been done all the same. `is_lost` says whether there was one.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.loaders import create_loader

from evlog.engine import make_url
from evlog.engines.waiting import Pause, timeouts_of
from evlog.errors import (
    EngineError,
    InvalidArgument,
    StoreAccessDenied,
    StoreClosed,
    StoreNotFound,
    StoreThrottled,
    StoreUnreachable,
)
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Item = dict[str, dict[str, Any]]
    Key = tuple[str, str]

_TABLE: Final = re.compile(r"[a-zA-Z0-9_.-]{3,255}", re.ASCII)
_REGION: Final = re.compile(r"[a-z0-9-]{2,40}", re.ASCII)
_BATCH_READ: Final = 100  # the service's limits
_BATCH_WRITE: Final = 25
_ATTEMPTS: Final = 3  # of botocore at a call that is throttled or fails, with growing pauses
_ANSWER_SECONDS: Final = 10  # of each
_DENIED: Final = frozenset(
    {
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "IncompleteSignatureException",
        "ExpiredTokenException",
        "MissingAuthenticationTokenException",
        "InvalidClientTokenId",
        "OptInRequired",
    }
)
_THROTTLED: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "LimitExceededException",
    }
)
_THROTTLED_ITEM: Final = frozenset({"ProvisionedThroughputExceeded", "ThrottlingError"})
# The descriptions of services, parsed once: with them a second client is made in a fifth of the time.
_models: Final = create_loader()
_CONTENDED: Final = frozenset({"TransactionConflictException", "TransactionInProgressException"})
_CONTENT_TYPE: Final = "application/x-amz-json"  # botocore takes a page of HTML for an empty answer
_REASONS: Final = frozenset({"None", "ConditionalCheckFailed", "TransactionConflict"})  # other writers'
_NOT_SENT: Final = (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError)


class Refused(Exception):
    """Conditions of a write did not hold, or another write was at the same items."""


class Address:
    """Where a store is: region, table, profile and endpoint, and a text that shows no secret."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        shown = dict(options)
        self.endpoint = options.pop("endpoint", None)
        if self.endpoint is not None:
            # Without a user: botocore signs with the chain's credentials, and shows the endpoint in messages.
            self.endpoint = shown["endpoint"] = _endpoint(self.endpoint)
        self.profile = options.pop("profile", None)
        timeout = options.pop("timeout", None)
        self.region, self.table = parts.netloc.rpartition("@")[2], parts.path.strip("/")
        self.text = make_url("dynamodb", self.region, f"/{self.table}", urlencode(shown, safe=":/"))
        if options:
            raise InvalidArgument(
                f"unknown option {next(iter(options))!r} in the URL; use profile, endpoint and timeout"
            )
        self.timeout_seconds, self.open_timeout_seconds = timeouts_of(timeout, self.text)
        if not _REGION.fullmatch(self.region) or not _TABLE.fullmatch(self.table):
            raise InvalidArgument(
                f"invalid URL {self.text}; use dynamodb://REGION/TABLE, with a TABLE of "
                "3 to 255 letters, digits, _, - and ., such as dynamodb://eu-central-1/shop"
            )


def _endpoint(url: str) -> str:
    """Return an endpoint without a user and password."""
    try:
        there = urlsplit(url)
        is_valid = there.scheme in ("http", "https") and there.hostname and there.port != 0
    except ValueError:  # of a port or an IPv6 address
        is_valid = False
    if not is_valid:
        raise InvalidArgument("invalid endpoint in the URL; use http://HOST:PORT or https://HOST")
    return urlunsplit(there._replace(netloc=there.netloc.rpartition("@")[2]))


class Client:
    """Calls for one table. Any thread may use it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.timeout_seconds = address.open_timeout_seconds  # until the store is open
        self._mutex = threading.Lock()  # guards the two below
        self._client: Any = None
        self._closed = False
        self._attempts = threading.local()  # of each thread's last transaction
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Begin without connections in a forked child."""
        self._mutex = threading.Lock()
        self._client = None

    @property
    def is_lost(self) -> bool:
        """Whether an attempt of this thread's last transaction was not answered: it may have been done."""
        return getattr(self._attempts, "is_lost", False)

    def _note_attempt(self, response: Any = None, caught_exception: Any = None, **_: Any) -> None:
        is_error = response is not None and response[0].status_code >= 500
        if is_error or not (caught_exception is None or isinstance(caught_exception, _NOT_SENT)):
            self._attempts.is_lost = True

    def close(self) -> None:
        """Close the connections; later calls raise StoreClosed."""
        with self._mutex:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def check_open(self) -> None:
        """Raise StoreClosed after `close`."""
        if self._closed:
            raise StoreClosed(self.address.text)

    def call(self, operation: str, *, is_patient: bool = True, **arguments: Any) -> Any:
        """Call an operation on the table, again for a while if it is throttled, or no service answers.

        So a write can be done twice: its condition then refuses the second one.

        Args:
            is_patient: call again if no service answers.

        Raises:
            Refused: a condition of the write did not hold.
            StoreUnreachable: there was no answer; a write may have been done.
            StoreNotFound, StoreAccessDenied, StoreThrottled, EngineError: the service refused.
        """
        return self._batch(operation, is_patient=is_patient, TableName=self.address.table, **arguments)

    def _batch(self, operation: str, *, is_patient: bool = True, **arguments: Any) -> Any:
        """Call an operation that names its tables itself; else as `call`.

        botocore does that, too, but not for long, and not with a transaction of which one item is throttled.
        """
        pause = Pause(time.monotonic() + self.timeout_seconds)
        while True:
            try:
                return self._send(operation, arguments)
            except (StoreThrottled, StoreUnreachable) as error:
                self.check_open()
                if not (is_patient or isinstance(error, StoreThrottled)) or not pause.take():
                    raise

    def _send(self, operation: str, arguments: dict[str, Any]) -> Any:
        client = self._opened()
        try:
            answer = getattr(client, operation)(**arguments)
        except exceptions.ClientError as error:
            raise self._translate(error) from error
        except exceptions.BotoCoreError as error:
            self.check_open()  # the pool of a client that is closed meanwhile fails somehow
            raise translate_local(error, self.address) from error
        if not answer["ResponseMetadata"]["HTTPHeaders"].get("content-type", "").startswith(_CONTENT_TYPE):
            self._attempts.is_lost = True
            raise StoreUnreachable(self.address.text, "what answers there is not DynamoDB")
        return answer

    def _opened(self) -> Any:
        with self._mutex:
            if self._closed:
                raise StoreClosed(self.address.text)
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        config = Config(
            connect_timeout=3,
            read_timeout=_ANSWER_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=50,
            parameter_validation=False,  # evlog makes the parameters; it costs a third of a batch
        )
        try:
            session = botocore.session.Session(profile=self.address.profile)
            session.register_component("data_loader", _models)
            client = session.create_client(
                "dynamodb", region_name=self.address.region, endpoint_url=self.address.endpoint, config=config
            )
        except exceptions.BotoCoreError as error:
            raise translate_local(error, self.address) from error
        client.meta.events.register("needs-retry.dynamodb.TransactWriteItems", self._note_attempt)
        return client

    def _translate(self, error: Any) -> Exception:
        """Return evlog's error for one of the service's."""
        detail = error.response.get("Error", {})
        code, where = detail.get("Code", ""), self.address.text
        text = " ".join(f"{code}: {detail.get('Message', '')}".split())[:300]
        if code == "TransactionCanceledException":
            reasons = [reason.get("Code", "None") for reason in error.response.get("CancellationReasons", ())]
            if _THROTTLED_ITEM.intersection(reasons):
                return StoreThrottled(where, text)
            return EngineError(where, text) if set(reasons) - _REASONS else Refused()
        if code == "ConditionalCheckFailedException" or code in _CONTENDED:
            return Refused()
        if code == "ResourceNotFoundException":
            return StoreNotFound(where, was_open=True)
        if code in _DENIED:
            return StoreAccessDenied(where, text)
        if code in _THROTTLED:
            return StoreThrottled(where, text)
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            return StoreUnreachable(where, text)
        return EngineError(where, text)

    # --- reading

    def get(self, key: Key, *, is_patient: bool = True) -> Item | None:
        """Return an item; None if there is none."""
        answer = self.call("get_item", is_patient=is_patient, Key=key_of(key), ConsistentRead=True)
        item: Item | None = answer.get("Item")
        return item

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """Return the items that are there, by their keys."""
        found: dict[Key, Item] = {}
        distinct = list(dict.fromkeys(keys))
        table = self.address.table
        for at in range(0, len(distinct), _BATCH_READ):
            pause = Pause(time.monotonic() + self.timeout_seconds)
            left: Any = [key_of(key) for key in distinct[at : at + _BATCH_READ]]
            while left:
                answer = self._batch(
                    "batch_get_item", RequestItems={table: {"Keys": left, "ConsistentRead": True}}
                )
                items = answer["Responses"].get(table, ())
                found.update(((item["PK"]["S"], item["SK"]["S"]), item) for item in items)
                left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys")
                if left and not items and not pause.take():  # with items the answer was full
                    raise self._throttled()
        return found

    def query(
        self,
        partition: str,
        first: str = "",
        last: str = "\U0010ffff",
        *,
        reverse: bool = False,
        limit: int | None = None,
        page: int | None = None,
    ) -> Iterator[Item]:
        """Iterate over the items of a partition between two sort keys, inclusive, by sort key.

        Args:
            limit: of items, in all; `page`: of the first page.
        """
        if first > last:
            return
        start: Any = {}
        while True:
            size: Any = {} if limit is None and page is None else {"Limit": page if limit is None else limit}
            answer = self.call(
                "query",
                KeyConditionExpression="PK = :k AND SK BETWEEN :a AND :b",
                ExpressionAttributeValues={
                    ":k": {"S": partition},
                    ":a": {"S": first or "\0"},
                    ":b": {"S": last},
                },
                ScanIndexForward=not reverse,
                ConsistentRead=True,
                **size,
                **start,
            )
            page = None
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            if limit is not None:
                limit -= len(answer["Items"])
                if limit <= 0:
                    return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    # --- writing

    def transact(self, actions: Sequence[dict[str, Any]]) -> None:
        """Do all actions, or none. botocore adds a token, so that a call that it repeats is done once.

        Raises:
            Refused: a condition did not hold.
        """
        named = [
            {kind: {"TableName": self.address.table, **action} for kind, action in each.items()}
            for each in actions
        ]
        self._attempts.is_lost = False
        self._batch("transact_write_items", is_patient=False, TransactItems=named)

    def put(
        self,
        item: Item,
        condition: str | None = None,
        values: Item | None = None,
        names: dict[str, str] | None = None,
    ) -> None:
        """Put an item, if a condition holds. Raises Refused if it does not."""
        self.call("put_item", Item=item, **_given(ConditionExpression=condition), **_terms(values, names))

    def update(
        self,
        key: Key,
        change: str,
        condition: str | None = None,
        values: Item | None = None,
        names: dict[str, str] | None = None,
    ) -> Item:
        """Change an item, if a condition holds, and return it. Raises Refused if it does not."""
        given = _given(UpdateExpression=change, ConditionExpression=condition, ReturnValues="ALL_NEW")
        item: Item = self.call("update_item", Key=key_of(key), **given, **_terms(values, names))["Attributes"]
        return item

    def delete(
        self,
        key: Key,
        condition: str | None = None,
        values: Item | None = None,
        names: dict[str, str] | None = None,
    ) -> None:
        """Delete an item, if a condition holds. Raises Refused if it does not."""
        given = _given(ConditionExpression=condition)
        self.call("delete_item", Key=key_of(key), **given, **_terms(values, names))

    def write_many(self, puts: Sequence[Item], deletes: Sequence[Key] = ()) -> None:
        """Put and delete items, each for itself; all are durable when this returns."""
        requests = [{"PutRequest": {"Item": item}} for item in puts]
        requests += [{"DeleteRequest": {"Key": key_of(key)}} for key in deletes]
        table = self.address.table
        for at in range(0, len(requests), _BATCH_WRITE):
            pause = Pause(time.monotonic() + self.timeout_seconds)
            left: Any = requests[at : at + _BATCH_WRITE]
            while left:
                answer = self._batch("batch_write_item", RequestItems={table: left})
                left = answer.get("UnprocessedItems", {}).get(table)
                if left and not pause.take():
                    raise self._throttled()

    def _throttled(self) -> StoreThrottled:
        return StoreThrottled(self.address.text, "the service takes only a part of each batch")


def key_of(key: Key) -> Item:
    """Return a key as the service takes it."""
    return {"PK": {"S": key[0]}, "SK": {"S": key[1]}}


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _terms(values: Item | None, names: dict[str, str] | None) -> dict[str, Any]:
    return _given(ExpressionAttributeValues=values or None, ExpressionAttributeNames=names or None)


def translate_local(error: Exception, address: Address) -> Exception:
    """Return evlog's error for one of botocore's own."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, exceptions.ProfileNotFound | exceptions.InvalidRegionError):
        return InvalidArgument(f"cannot open {address.text} ({text})")
    credentials = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.SSOError,
        exceptions.TokenRetrievalError,
    )
    if isinstance(error, credentials):
        return StoreAccessDenied(address.text, text)
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return StoreUnreachable(address.text, text)
    return EngineError(address.text, text)
