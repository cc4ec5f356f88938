"""Compaction: removing hidden events and merging segments, while others read and write.

compact.py    one compaction, step by step. Read this first
plan.py       which events are removed, which segments are written again
rewrite.py    write one segment in the place of several
compress.py   write a segment's log in compressed form
commit.py     replace the manifest; what a crash leaves and how the next compaction clears it
"""
