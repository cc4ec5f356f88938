"""The workloads by name, in the order of a full run. A new one is a module with a `run`, and a name here.

A module is imported when it is run: together they load 100 MB, and a worker process imports its own alone.
"""

from __future__ import annotations

from typing import Final

WORKLOADS: Final = (
    "bulk",
    "scan",
    "streams",
    "short_streams",
    "one_stream",
    "resend",
    "durable",
    "latency",
    "live",
    "command",
    "memory",
    "lines",
    "forms",
    "queries",
    "million",
    "verify",
    "compact",
    "compress",
    "growth",
    "growth_peers",
    "cold",
    "postgresql",
    "nats",
    "kafka",
    "dynamodb",
    "engines",
    "mirror",
    "conditions",
    "backup",
    "recorders",
    "web",
)

ONLY_WHEN_NAMED: Final = frozenset({"growth_peers"})
"""Those that a full run leaves out: they take many minutes."""
