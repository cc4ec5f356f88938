"""A store in PostgreSQL: the whole contract, on a server. Needs the extra `evlog-store[postgresql]`.

1. Every append holds the store's advisory lock until its commit and takes the positions after the last event,
   so positions are in commit order and have no gaps. It updates no row. The tables and the function that
   appends are in `schema.sql`.
2. That commit does not wait for the disk (`synchronous_commit=off`): the lock is free again at once. Another,
   empty transaction with `synchronous_commit=on` then flushes the write-ahead log for all writers together,
   and waits for synchronous standbys. Only after it is the append acknowledged. A crash loses a suffix of the
   log, never a hole. A writer that is alone commits with a flush at once.
3. A feed delivers an event only once the write-ahead log is flushed beyond it, so no crash takes back what
   was delivered.
4. Every append carries its ids. When the connection breaks between sending and the answer, it is sent again:
   the function finds by the ids what was written before.
5. A pooler in transaction mode gives no session, and hides that the server has restarted. Opening the store
   detects a pooler. An append and its flush are then one transaction, a feed polls and reads the
   position in a flushed transaction, and the lock of a named subscription is an open transaction's.

engine.py       the engine's methods, on what `core.py` opens. Read this first, then `schema.sql`
schema.py       opens or creates the schema
appends.py      one append (wire.py: its values in the server's binary format)
reading.py      streams, the log, ids (rows.py: an event as a row)
feed.py         following (checkpoints.py: named subscriptions; snapshots.py)
policies.py     retention policies in memory
compaction.py   removing what policies hide (history.py: mirrors; verify.py)
connections.py  connections, and the server's errors
"""

from evlog.errors import ExtraNotInstalled

try:
    import psycopg  # noqa: F401 - to find out whether it is installed
except ImportError as error:
    raise ExtraNotInstalled("a store in PostgreSQL", "psycopg", "postgresql", error) from error

from evlog.engines.postgresql.engine import open_engine

__all__ = ["open_engine"]
