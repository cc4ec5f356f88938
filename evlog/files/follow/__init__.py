"""Following a log, and the files of named subscriptions. Begin with feed.py.

feed.py              which events are committed, and waiting for more
checkpoint_file.py   the checkpoint, the parked events and the lock of one named subscription
snapshot_file.py     the file of one snapshot
"""
