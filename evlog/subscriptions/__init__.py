"""Subscriptions: following the log, live and by name. Written against `evlog.engine`, for every engine.

run.py     one run: events in order, acknowledging them, stopping. Read this first
named.py   named subscriptions: begin, handle, describe, reset, delete, replay
shards.py  consumers that share a name by stream
retry.py   call a handler until it succeeds
"""
