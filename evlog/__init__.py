"""evlog: an event store in a directory. The public names, and nothing else; begin with `evlog.open`."""

from evlog._version import __version__
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
    ZstdNotInstalled,
)
from evlog.files.follow.checkpoint_file import Filter, ParkedEvent
from evlog.files.follow.feed import wait_for_store
from evlog.model.appends import ANY, NO_STREAM, STREAM_EXISTS, BatchResult
from evlog.model.events import Event, NewEvent, idempotency_id
from evlog.model.reports import Finding, Loss, PolicyInfo, StoreInfo, StreamInfo, TornTail, VerifyReport
from evlog.model.results import AppendResult
from evlog.model.retention import Retention
from evlog.store import EventStore, exists, open
from evlog.store_checking import repair_store, salvage_store, verify_store
from evlog.subscriptions.named import ReplayResult, SubscriptionInfo
from evlog.subscriptions.run import Subscription

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
    "Finding",
    "IdConflict",
    "InvalidArgument",
    "InvalidEvent",
    "InvalidStreamName",
    "LockTimeout",
    "Loss",
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
    "VerifyReport",
    "WrongExpectedVersion",
    "ZstdNotInstalled",
    "__version__",
    "exists",
    "idempotency_id",
    "open",
    "repair_store",
    "salvage_store",
    "verify_store",
    "wait_for_store",
]
