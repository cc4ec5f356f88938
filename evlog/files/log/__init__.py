"""Reading what is in a store: the log, its segments, its indexes. Only the manifest and a mark are
written here, and nothing takes a lock.

log.py              the log of one store, as of its last refresh; look-ups across segments. Read this first
parts.py            a segment with its look-ups; which of them are open
segment.py          records and frames of one segment, checked
sealed_segment.py   a segment that never changes (compressed.py: with a compressed log)
active.py           the segment that is being written: what of it is whole
index.py            from hashes to entries in a sealed segment (column_index.py: without its index files)
segment_filter.py   which segments to look into
tags.py             which entries may have all of some tags
read.py             reading all streams (history.py: for another store)
read_stream.py      reading one stream (stream_entries.py: where its entries are)
policies.py         retention policies in force
catalog.py          streams, sizes and policies, in numbers
removed.py          events that a compaction removed
manifest_file.py    reading and replacing the manifest; leaving a mark in `durable`
later.py            whether a log has events after those of the manifest
crafted.py          errors for content that no evlog wrote
"""
