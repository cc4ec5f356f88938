"""A store in a table of DynamoDB: the whole contract, without a server. Needs `evlog-store[dynamodb]`.

1. One item says where the log ends. An append is one transaction that replaces it, on the condition that it
   is as it was read, and puts the events with their ids and tags. So positions have no gaps, and what the
   writer has read still holds.
2. No reader looks beyond that position. So a mirror can write a long piece of history item by item, and then
   commit it by replacing that one item.
3. Streams, ids and tags are keys of the table, whose reads are strongly consistent. The order of the log is
   an index, which is not: a reader stops before the first position that it does not show yet.
4. A follower polls that one item.

items.py       the items of the table. Read this first (records.py: those of subscriptions and snapshots)
core.py        how the store is changed
engine.py      the engine's methods (table.py: opens or creates the table)
appends.py     one append (history.py: a piece of a mirror)
reading.py     streams, the log, ids, tags
feed.py        following
compaction.py  removing what policies hide, and erasing (verify.py: checking)
client.py      the calls of botocore, and its errors
"""

from evlog.errors import ExtraNotInstalled

try:
    import botocore  # noqa: F401 - to find out whether it is installed
except ImportError as error:
    raise ExtraNotInstalled("a store in DynamoDB", "botocore", "dynamodb", error) from error

from evlog.engines.dynamodb.engine import open_engine

__all__ = ["open_engine"]
