"""A store in a topic of Kafka, which keeps all it is given. Needs the extra `evlog-store[kafka]`.

1. The log is one partition. Each append is a transaction; what is committed is never taken back, and it is
   read in one order. Positions and versions are in headers, because a topic's offsets have holes.
2. Kafka cannot refuse a record because another one was written. So writers have turns: one that begins
   fences the one before it, reads to the end, and decides. `writing.py` says why that is exact.
3. Everything but the tail is read from the local index, an ordinary evlog store in the user's cache, which is
   an identical mirror of the topic. `index.py`.
4. Named subscriptions are records by key in a second, compacted topic. Snapshots are derived, so they are
   kept in the local index.
5. A topic keeps what it was given. Retention, deletion, redaction and compaction are refused.
6. A topic of many partitions is a mirror's destination only: `partitions.py`.

engine.py      the engine's methods. Read this first, then `writing.py`
writing.py     appends, in turns with other writers
records.py     what the records of the topic mean (keyed.py: those of subscriptions)
reading.py     reads a partition in a thread (applying.py: into the index; feed.py: tells followers)
index.py       the local index
partitions.py  a mirror of many partitions
client.py      the calls of librdkafka (address.py: the URL; verify.py)
"""

from evlog.errors import ExtraNotInstalled

try:
    import confluent_kafka  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise ExtraNotInstalled("a store in Kafka", "confluent-kafka", "kafka", error) from error

from evlog.engines.kafka.engine import open_engine

__all__ = ["open_engine"]
