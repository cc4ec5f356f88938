"""Compaction: removing hidden events and merging segments, while others read and write.

compact.py    one compaction, step by step. Read this first
plan.py       which segments lose events, and are written again or merged
hidden.py     which events the policies hide
rewrite.py    write one segment in the place of several
compress.py   write a segment's log in compressed form
history.py    append a piece of a mirror's source, of which events may be removed already
commit.py     replace the manifest; what a crash leaves and how the next compaction clears it
"""
