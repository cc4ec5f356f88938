"""The peers by name. The first one is what the ratios are about; a new peer is a module and a line here.

Every module can be imported without what its peer needs: that is imported where it is used.
"""

from __future__ import annotations

from typing import Final

from tests.benchmarks.peers.base import Peer
from tests.benchmarks.peers.eventsourcing_recorder import EventsourcingRecorder
from tests.benchmarks.peers.evlog_store import EvlogStore
from tests.benchmarks.peers.json_lines import JsonLines
from tests.benchmarks.peers.lmdb_environment import LmdbEnvironment
from tests.benchmarks.peers.nats_jetstream import NatsJetStream
from tests.benchmarks.peers.postgres_table import PostgresTable
from tests.benchmarks.peers.redis_streams import RedisStreams
from tests.benchmarks.peers.rocksdb import RocksDb
from tests.benchmarks.peers.sqlite_table import SqliteNormal, SqliteTable
from tests.benchmarks.peers.umadb_server import UmadbServer

PEERS: Final[dict[str, type[Peer]]] = {
    peer.name: peer
    for peer in (
        EvlogStore,
        SqliteTable,
        SqliteNormal,
        LmdbEnvironment,
        RocksDb,
        EventsourcingRecorder,
        UmadbServer,
        PostgresTable,
        RedisStreams,
        NatsJetStream,
        JsonLines,
    )
}

__all__ = ["PEERS", "Peer"]
