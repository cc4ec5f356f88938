"""Compaction: removing hidden events and merging segments. Read compact.py first; it names the others."""
