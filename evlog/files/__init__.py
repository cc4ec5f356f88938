"""The directory engine: a store in files. Begin with engine.py, the one class that `open` uses.

format       the bytes of each kind of file, pure; how a kind of file is added
disk         system calls: files, locks, watching, processes
log          reading what is there: segments and their indexes, without a lock
write        changing it: one append, from the lock to the acknowledgement; recovery; rolls
follow       waiting for committed events; checkpoint files
compaction   removing what policies hide, merging and compressing segments
check        verify, repair, salvage

A package imports only from those above it. directory.py has the functions for a store that is not open;
backup.py copies one.
"""
