"""A store in a table of DynamoDB: the whole contract, without a server. Needs `evlog-store[dynamodb]`.

1. One item says where the log ends. An append is one transaction that replaces it, on the condition that it
   is as it was read, and puts the events with their ids and tags. So positions have no gaps, and what the
   writer has read still holds.
2. No reader looks behind that position. So a mirror can write a long piece of history item by item, and then
   commit it by replacing that one item.
3. Streams, ids and tags are keys of the table, whose reads are strongly consistent. The order of the log is
   an index, which is not: a reader stops before the first position that it does not show yet.
4. A follower polls that one item.

Read `items.py` for the table, then `core.py` for how it is changed.
"""

from evlog.errors import ExtraNotInstalled

try:
    import botocore  # noqa: F401 - only to see whether it is there
except ImportError:
    raise ExtraNotInstalled("a store in DynamoDB", "botocore", "dynamodb") from None

from evlog.engines.dynamodb.engine import open_engine

__all__ = ["open_engine"]
