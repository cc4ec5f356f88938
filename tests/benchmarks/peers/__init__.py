"""The peers by name. The first one is what the ratios are about; a new peer is a module and a line here."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.peers.base import Peer
from tests.benchmarks.peers.evlog_store import EvlogStore
from tests.benchmarks.peers.sqlite_table import SqliteTable

PEERS: Final[dict[str, type[Peer]]] = {peer.name: peer for peer in (EvlogStore, SqliteTable)}

__all__ = ["PEERS", "Peer"]
