"""Engines that keep a store on a server. Each is imported when `evlog.open` gets its URL.

postgresql    the tables of a database: the server decides about an append
nats          a stream of JetStream: the client decides, the server compares
kafka         a topic: writers take turns, and reads are from a local index
dynamodb      a table: one item says where the log ends

What they share:

deciding.py   the result of an append, decided by the client
keyed.py      subscriptions and snapshots as records by key
retention.py  changing and telling policies and redactions
messages.py   an event as a message with headers
reading.py    reads that a reader of the engine's own serves
following.py  feeds: what wakes them and what ends them
waiting.py    for how long servers that do not answer are waited for
digest.py     the head digest, for `verify`
"""
