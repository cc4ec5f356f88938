"""The bytes of a store: pure encode, decode and validate. No I/O, no clock.

Each module holds one kind of file, its diagram above its codec. Begin with `headers.py` and `frames.py`.

    headers.py         the 64 bytes that begin every binary file
    frames.py          .log: frames, and the records in them; a worked example
    frame_columns.py   the same headers, of many frames at once
    entries.py         .offsets: one entry an event
    sorted_index.py    .streams .types .ids .tags: from a hash to entries
    filter.py          filter: from a hash to the segments that may have it
    removed_events.py  .removed: ids of the events that a compaction removed
    seek_table.py      .log.zst: a compressed log
    marks.py           durable: how far the active log is written and synced
    manifest.py        manifest.json: the settings and the segments of the store
    checkpoints.py     subscriptions/: checkpoints and parked events
    snapshots.py       snapshots/
    lines.py           JSON lines that end with their CRC
    hashes.py          the hashes of streams, types and ids
    paths.py           file names

`lock` and `compaction` are locked and empty. `queue` outlives no process that uses it; it is specified in
`evlog/files/write/group_commit.py`.

A new kind of file gets a module here, a `KIND_…` in `headers.py` and a name in `paths.py`. `files/log` reads
it, `files/write` writes it, and `files/check` checks it.

All integers are little-endian. CRC is CRC-32, zlib's. Every byte of every file is under a CRC, and the input
of each CRC holds a magic or a length that is not zero, so a run of zeros is never valid. Lengths are compared
with the bytes at hand before anything is allocated.
"""
