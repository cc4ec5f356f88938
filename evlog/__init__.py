"""evlog: an event store in a directory. The public names, and nothing else; begin with `evlog.open`."""

from evlog._version import __version__
from evlog.batch import ANY, NO_STREAM, STREAM_EXISTS, BatchResult
from evlog.catalog import StoreInfo, StreamInfo
from evlog.checkpoint import Filter, ParkedEvent
from evlog.errors import (
    AppendTooLarge,
    CompactionRunning,
    CorruptionError,
    EventTooLarge,
    EvlogError,
    IdConflict,
    InvalidArgument,
    InvalidEvent,
    InvalidStreamName,
    LockTimeout,
    NotAStore,
    StoreAccessDenied,
    StoreClosed,
    StoreFull,
    StoreIOError,
    StoreNotFound,
    StreamNotFound,
    StreamTombstoned,
    SubscriptionBehind,
    SubscriptionBusy,
    SubscriptionNotFound,
    UnsupportedFormat,
    WrongExpectedVersion,
)
from evlog.events import Event, NewEvent, idempotency_id
from evlog.follow import Subscription, wait_for_store
from evlog.policies import Retention
from evlog.recovery import TornTail
from evlog.store import AppendResult, EventStore, exists, open
from evlog.subscriptions import ReplayResult, SubscriptionInfo
from evlog.visibility import PolicyInfo

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "AppendResult",
    "AppendTooLarge",
    "BatchResult",
    "CompactionRunning",
    "CorruptionError",
    "Event",
    "EventStore",
    "EventTooLarge",
    "EvlogError",
    "Filter",
    "IdConflict",
    "InvalidArgument",
    "InvalidEvent",
    "InvalidStreamName",
    "LockTimeout",
    "NewEvent",
    "NotAStore",
    "ParkedEvent",
    "PolicyInfo",
    "ReplayResult",
    "Retention",
    "StoreAccessDenied",
    "StoreClosed",
    "StoreFull",
    "StoreIOError",
    "StoreInfo",
    "StoreNotFound",
    "StreamInfo",
    "StreamNotFound",
    "StreamTombstoned",
    "Subscription",
    "SubscriptionBehind",
    "SubscriptionBusy",
    "SubscriptionInfo",
    "SubscriptionNotFound",
    "TornTail",
    "UnsupportedFormat",
    "WrongExpectedVersion",
    "__version__",
    "exists",
    "idempotency_id",
    "open",
    "wait_for_store",
]
