"""Moving events between stores and files. Built on the public store and the interface `evlog/engine.py`.

mirrors.py         `mirror` and `Mirror`: copies one store into another, exactly once. Read this first
targets.py         what is appended to: an identical copy, a fork, or a store to merge into
pieces.py          the source's history in pieces, read ahead
subscriptions.py   what named subscriptions keep, copied
compare.py         both stores, event by event
export.py          events into a file (formats.py: JSON lines, CSV, SQLite; cloudevents.py)
parquet.py         Parquet files (arrow.py: events as columns)
fork.py            a store of its own that begins with another one's history
imports.py         events with the times that they had in another system
"""

from evlog.transfer.compare import Comparison, Difference
from evlog.transfer.fork import ForkResult, fork
from evlog.transfer.imports import Import
from evlog.transfer.mirrors import Mirror, MirrorPlan, MirrorResult, mirror, plan_mirror, promote

__all__ = [
    "Comparison",
    "Difference",
    "ForkResult",
    "Import",
    "Mirror",
    "MirrorPlan",
    "MirrorResult",
    "fork",
    "mirror",
    "plan_mirror",
    "promote",
]
