"""A persistence module for the `eventsourcing` library: its recorders on an evlog store. Read this first.

    PERSISTENCE_MODULE=evlog.adapters.eventsourcing
    EVLOG_STORE=shop                 a directory, or the URL of a server

1. Each application has categories of its own, by its name: an aggregate of `Shop` is the stream `Shop-<id>`,
   its snapshots `Shop.snapshots-<id>`; what an application or projection has processed of `Shop` is the
   stream `NAME.tracking-Shop`; decisions with tags are in the one stream `Shop.decisions`.
2. A notification's id is the event's position in the store. Positions have gaps where others have written.
3. An event's type is its topic. Its data is its state, byte for byte: as JSON where it is JSON, else binary.
4. Everything that one call inserts is one append: all or nothing, and durable when the call returns.

    factory.py     makes the recorders, by the environment
    recorders.py   aggregates, applications, processes, tracking
    insertion.py   what one call inserts, as one append; how versions are kept and checked
    selection.py   the events of an aggregate by their versions
    decisions.py   dynamic consistency boundaries
    errors.py      evlog's errors as the library's
"""

from __future__ import annotations

from evlog.adapters.eventsourcing.decisions import EvlogDCBRecorder
from evlog.adapters.eventsourcing.factory import EvlogFactory
from evlog.adapters.eventsourcing.recorders import (
    EvlogAggregateRecorder,
    EvlogApplicationRecorder,
    EvlogProcessRecorder,
    EvlogTrackingRecorder,
)

__all__ = [
    "EvlogAggregateRecorder",
    "EvlogApplicationRecorder",
    "EvlogDCBRecorder",
    "EvlogFactory",
    "EvlogProcessRecorder",
    "EvlogTrackingRecorder",
]
