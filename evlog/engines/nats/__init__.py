"""A store in NATS JetStream: the whole contract, on one server or a cluster. Needs no client library.

1. A store is one JetStream stream of events, and a bucket of subscriptions and snapshots. `layout.py`
   describes the messages.
2. An append decides on the client (`evlog/engines/deciding.py`) and is stored as one atomic batch, on the
   condition that the stream still ends where the writer has read it. So ids, versions, conditions and
   positions are exact with any number of writers.
3. The leader of the stream acknowledges once a majority of the replicas has the batch. After a lost answer
   the writer decides again with the same ids, which shows whether the batch was stored.
4. Reads ask the leader what the last message is, and any replica for the messages up to there.
5. A retention policy hides events. A compaction first stores their ids and digests, then purges their
   messages.

engine.py      the engine's methods, on what `core.py` opens. Read this first
layout.py      subjects and messages of the stream (records.py: of the bucket; address.py: its URL)
appends.py     look, decide, store
reading.py     streams, the log, ids (seeking.py: where a read begins)
feed.py        following
compaction.py  purging what policies hide (history.py: mirrors; verify.py)
jetstream.py   JetStream's requests (connections.py: retried; session.py: the protocol)
"""

from evlog.engines.nats.engine import open_engine

__all__ = ["open_engine"]
