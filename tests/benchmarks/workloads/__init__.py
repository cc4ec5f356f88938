"""The workloads by name, in the order of a full run. A new one is a module with a `run`, and a line here."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.run import Workload
from tests.benchmarks.workloads import (
    backup,
    bulk,
    cold,
    command,
    compact,
    compress,
    conditions,
    durable,
    dynamodb,
    engines,
    forms,
    growth,
    growth_peers,
    kafka,
    latency,
    lines,
    live,
    memory,
    million,
    mirror,
    nats,
    one_stream,
    postgresql,
    queries,
    recorders,
    resend,
    scan,
    short_streams,
    streams,
    verify,
    web,
)

WORKLOADS: Final[dict[str, Workload]] = {
    "bulk": bulk.run,
    "scan": scan.run,
    "streams": streams.run,
    "short_streams": short_streams.run,
    "one_stream": one_stream.run,
    "resend": resend.run,
    "durable": durable.run,
    "latency": latency.run,
    "live": live.run,
    "command": command.run,
    "memory": memory.run,
    "lines": lines.run,
    "forms": forms.run,
    "queries": queries.run,
    "million": million.run,
    "verify": verify.run,
    "compact": compact.run,
    "compress": compress.run,
    "growth": growth.run,
    "growth_peers": growth_peers.run,
    "cold": cold.run,
    "postgresql": postgresql.run,
    "nats": nats.run,
    "kafka": kafka.run,
    "dynamodb": dynamodb.run,
    "engines": engines.run,
    "mirror": mirror.run,
    "conditions": conditions.run,
    "backup": backup.run,
    "recorders": recorders.run,
    "web": web.run,
}

ONLY_WHEN_NAMED: Final = frozenset({"growth_peers"})
"""Those that a full run leaves out: they take many minutes."""

__all__ = ["ONLY_WHEN_NAMED", "WORKLOADS"]
