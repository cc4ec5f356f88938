"""Verify, repair and salvage. Read `verify` first; nothing but `repair` and `salvage` writes.

files      manifest, marks, names, checkpoints and snapshots: what shows without reading a log
segments   one segment, in pieces for all cores; `task` says what to check
logs       a log, frame by frame, and what damage costs; `offsets` compares .offsets
records    the records of frames, every field, and the entries that they must have
indexes    the sorted indexes of a segment
removals   the removed events of a segment
across     versions, ids and the filter, across segments (`known`: what is known of each)
digest     the head digest
history    why a pinned digest does not hold any more; the redacted events
quick      `--quick`
tags       the tags of events, and .tags
containers compressed logs, read past damage
losses     which events are lost for good
findings   the kinds of findings
"""
