"""evlog: an event store in a directory, or on a server. The public names; begin with `evlog.open`.

store.py        `open` and `EventStore`, all that a program needs. Read this first
engine.py       what a store needs of an engine; how another engine is added
files           the directory engine: a store in files
transfer        copying a store into another one, on any engines
state           states folded from events, and their snapshots
subscriptions   following a log, live and by name; written against engine.py
decisions       read, decide, append, and again if another writer was first
schemas         JSON Schemas of event types, checked by every append
aio             the store for asyncio; imported by itself
model           values that all of these pass on: events, appends, policies
process         resets in a forked child; threads without signals
errors.py       every exception
engines         stores on servers: PostgreSQL, NATS, Kafka, DynamoDB
adapters        what other systems read: SQL, Prometheus, assistants, `eventsourcing`
web             the page that `evlog web` serves
cli             the command line
testing         the tests that every engine must pass (pytest_plugin.py: a store for the tests of programs)
guide           the pages that `evlog help` shows
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog._version import __version__
    from evlog.engine import Capabilities, Progress
    from evlog.errors import (
        AppendTooLarge,
        AppendUnknown,
        ClockError,
        CompactionRunning,
        ConditionFailed,
        CorruptionError,
        EngineError,
        EventNotFound,
        EventTooLarge,
        EvlogError,
        ExtraNotInstalled,
        IdConflict,
        InvalidArgument,
        InvalidEvent,
        InvalidSchema,
        InvalidStreamName,
        LockLost,
        LockTimeout,
        MirrorBusy,
        MirrorConflict,
        MirrorLimit,
        NotAStore,
        SchemaNotFound,
        SchemaViolation,
        ServerUnsuitable,
        ShardsApart,
        SnapshotNotFound,
        StoreAccessDenied,
        StoreBusy,
        StoreClosed,
        StoreDiverged,
        StoreFull,
        StoreIOError,
        StoreIsMirror,
        StoreMoved,
        StoreNotFound,
        StoreReplaced,
        StoreThrottled,
        StoreUnreachable,
        StreamNotFound,
        StreamTombstoned,
        SubscriptionAhead,
        SubscriptionBehind,
        SubscriptionBusy,
        SubscriptionNotFound,
        SystemCallFailed,
        TooManyEvents,
        UnsafeFile,
        Unsupported,
        UnsupportedFormat,
        WrongExpectedVersion,
    )
    from evlog.files.check.repair import RepairReport
    from evlog.files.check.salvage import SalvageReport
    from evlog.files.directory import (
        backup_store,
        exists,
        repair_store,
        salvage_store,
        verify_store,
        wait_for_store,
    )
    from evlog.model.appends import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, BatchResult, IfVersion
    from evlog.model.checkpoints import ParkedEvent
    from evlog.model.events import Event, NewEvent, idempotency_id
    from evlog.model.filters import EventFilter
    from evlog.model.history import Standing
    from evlog.model.new_events import NewEvents
    from evlog.model.queries import IfNone, Query, QueryResult
    from evlog.model.redaction import Redaction, RedactionResult
    from evlog.model.reports import (
        Backup,
        Compaction,
        Finding,
        Loss,
        PolicyInfo,
        Removal,
        Retention,
        StoreInfo,
        StreamInfo,
        TornTail,
        VerifyReport,
    )
    from evlog.model.types import Append, Condition, ContentType, ExpectedVersion, OnFailure, Sync
    from evlog.schemas.registry import Schema
    from evlog.state.compute import State
    from evlog.state.event_types import EventTypes
    from evlog.state.fold import Fold
    from evlog.state.snapshots import SnapshotInfo
    from evlog.state.trace import TracedEvent
    from evlog.state.upcasting import Upcasters
    from evlog.store import EventStore, open
    from evlog.subscriptions.named import ReplayResult, SubscriptionInfo
    from evlog.subscriptions.run import Subscription
    from evlog.transfer import Comparison, Difference, Mirror, MirrorResult, mirror

# The module of each name but those of errors. It is imported when the name is asked for, so a command can
# handle Ctrl-C before it imports anything that takes long.
_MODULES = {
    "evlog._version": "__version__",
    "evlog.engine": "Capabilities Progress",
    "evlog.files.check.repair": "RepairReport",
    "evlog.files.check.salvage": "SalvageReport",
    "evlog.files.directory": "backup_store exists repair_store salvage_store verify_store wait_for_store",
    "evlog.model.appends": "ANY NO_STREAM STREAM_EXISTS AppendResult BatchResult IfVersion",
    "evlog.model.checkpoints": "ParkedEvent",
    "evlog.model.events": "Event NewEvent idempotency_id",
    "evlog.model.filters": "EventFilter",
    "evlog.model.history": "Standing",
    "evlog.model.new_events": "NewEvents",
    "evlog.model.queries": "IfNone Query QueryResult",
    "evlog.model.redaction": "Redaction RedactionResult",
    "evlog.model.reports": "Backup Compaction Finding Loss PolicyInfo Removal Retention StoreInfo StreamInfo "
    "TornTail VerifyReport",
    "evlog.model.types": "Append Condition ContentType ExpectedVersion OnFailure Sync",
    "evlog.schemas.registry": "Schema",
    "evlog.state.compute": "State",
    "evlog.state.event_types": "EventTypes",
    "evlog.state.fold": "Fold",
    "evlog.state.snapshots": "SnapshotInfo",
    "evlog.state.trace": "TracedEvent",
    "evlog.state.upcasting": "Upcasters",
    "evlog.store": "EventStore open",
    "evlog.subscriptions.named": "ReplayResult SubscriptionInfo",
    "evlog.subscriptions.run": "Subscription",
    "evlog.transfer": "Comparison Difference Mirror MirrorResult mirror",
}

__all__ = [
    "ANY", "NO_STREAM", "STREAM_EXISTS", "Append", "AppendResult", "AppendTooLarge", "AppendUnknown",
    "Backup", "BatchResult", "Capabilities", "ClockError", "Compaction", "CompactionRunning", "Comparison",
    "Condition", "ConditionFailed", "ContentType", "CorruptionError", "Difference", "EngineError", "Event",
    "EventFilter", "EventNotFound", "EventStore", "EventTooLarge", "EventTypes", "EvlogError",
    "ExpectedVersion", "ExtraNotInstalled", "Finding", "Fold", "IdConflict", "IfNone", "IfVersion",
    "InvalidArgument", "InvalidEvent", "InvalidSchema", "InvalidStreamName", "LockLost", "LockTimeout",
    "Loss", "Mirror", "MirrorBusy", "MirrorConflict", "MirrorLimit", "MirrorResult", "NewEvent", "NewEvents",
    "NotAStore", "OnFailure", "ParkedEvent", "PolicyInfo", "Progress", "Query", "QueryResult", "Redaction",
    "RedactionResult", "Removal", "RepairReport", "ReplayResult", "Retention", "SalvageReport", "Schema",
    "SchemaNotFound", "SchemaViolation", "ServerUnsuitable", "ShardsApart", "SnapshotInfo",
    "SnapshotNotFound", "Standing", "State", "StoreAccessDenied", "StoreBusy", "StoreClosed", "StoreDiverged",
    "StoreFull", "StoreIOError", "StoreInfo", "StoreIsMirror", "StoreMoved", "StoreNotFound", "StoreReplaced",
    "StoreThrottled", "StoreUnreachable", "StreamInfo", "StreamNotFound", "StreamTombstoned", "Subscription",
    "SubscriptionAhead", "SubscriptionBehind", "SubscriptionBusy", "SubscriptionInfo", "SubscriptionNotFound",
    "Sync", "SystemCallFailed", "TooManyEvents", "TornTail", "TracedEvent", "UnsafeFile", "Unsupported",
    "UnsupportedFormat", "Upcasters", "VerifyReport", "WrongExpectedVersion", "__version__", "backup_store",
    "exists", "idempotency_id", "mirror", "open", "repair_store", "salvage_store", "verify_store",
    "wait_for_store",
]  # fmt: skip


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":  # programs write `evlog.errors.StoreFull`, and have only imported evlog
        return import_module("evlog.errors")
    module = next((module for module, names in _MODULES.items() if name in names.split()), "evlog.errors")
    if name not in __all__:
        raise AttributeError(f"module 'evlog' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
