r"""The bytes of a store: THE specification, and pure encode/decode. No I/O, no clock, no paths.

All integers are little-endian; CRC is CRC-32 (zlib's). Every byte of every file is under a CRC, and every
CRC's input holds a magic or a length that is not zero, so a run of zeros never checks out. Lengths are
compared with the bytes at hand before anything is allocated.

Every binary file begins with the same 64 bytes, in this and in all later formats; in a .log.zst they stand
behind 8 others:

    offset  size  file header
         0     8  magic  89 65 76 6c 6f 67 0d 0a  ("\x89evlog\r\n")
         8     2  format version (1)
        10     2  kind: 1 log, 2 offsets, 3 streams, 4 types, 5 ids, 6 removed events,
                  7 compressed log
        12     4  generation of the segment (0; a compaction counts it up)
        16    16  store id, a UUID
        32     8  first position of the segment
        40     4  tag: random, chosen with the segment; its log and indexes carry the same
        44     4  keys       (kinds 3 to 5: number of keys; 6: of events; 7: of blocks; else 0)
        48     4  postings   (kinds 3 to 5: number of postings; 6: of streams; 7: bytes in a block; else 0)
        52     4  source CRC (kinds 3 to 5: the CRC of the .offsets entries they derive from; 6: bytes of
                  the names; 7: the CRC of all behind the blocks; else 0)
        56     4  zero
        60     4  CRC of bytes 0..59

A *.log* is a file header, then frames without a gap. What one append writes is one frame,
or a part of one that several writers share:

    offset  size  frame header                          a frame:   +--------+------+
         0     4  magic  e5 45 56 46 ("\xe5EVF")                   | header | body |
         4     4  length of the body in bytes                      +--------+------+
         8     4  count of events
        12     4  durable: this log was known to be synced up to here when the frame was written
        16     8  position of the first event
        24     4  index CRC: of all entries of .offsets, up to and with this frame's
        28     4  CRC of the body
        32     4  tag of the segment
        36     4  CRC of the frame's own file offset (8 bytes), then bytes 0..35

Behind the last frame of the active log may stand zeros up to the end of the file: room that a writer made
for the frames to come, because a device takes a sync sooner of a file that has its length already. A sealed
log has none.

The frame's offset is in its CRC and the segment's tag in its header, so that a copy of a frame (inside
an event's data, say) is never taken for a frame. The body is one msgpack array of `count` records:

    [position, version, stream, type, id, time, content type, data, metadata]
     uint      uint     str     str   bin uint  0..2          bin   bin or nil

`time` is in µs since 1970 UTC; content type is 0 json, 1 text, 2 binary; metadata is JSON text.

*.offsets* is a file header, then one entry of 40 bytes an event, in position order:

         0     8  stream hash: BLAKE2b-64 of the stream's name
         8     8  id hash: its bytes 12..15, then the CRC of the id
        16     4  offset of the record in the log
        20     4  length of the record
        24     4  CRC of the record
        28     4  offset of the frame that holds it
        32     4  version
        36     4  type hash: CRC of the type's name

Hashes only find candidates: what decides is always the name or the id in the record. In a segment that was
never compacted the entry of position p is number p - first position.

*.streams*, *.types* and *.ids* are made once, of a sealed segment's entries: a file header, then

    keys      sorted: u64 stream hashes | u64 type hashes | u32 upper halves of the id hashes
    starts    u32 x (keys + 1), not in .ids: where each key's postings begin and where the last one's end
    postings  u32: entry numbers, rising within a key (in .ids: one a key)
    CRCs      u32 of every 4,096 bytes of what stands between the file header and here

*.removed* keeps the ids of the events that a compaction removed from the segment. It is not an index: nothing
can derive it again. evlog/files/format/removed_events.py specifies it.

*.log.zst* stands in the place of a sealed segment's .log and holds the same bytes, so that all offsets into
the log, its digest and its indexes stay. It is in zstandard's seekable format: frames of zstandard all
through, and `zstd -d` gives the log back:

    header      skippable frame: 50 2a 4d 18 | u32 64 | a file header
    blocks      a frame each, with its content's size and zstandard's checksum: of as many bytes of the log as
                the header says (1 to 65,536), the last of what is left
    CRCs        skippable frame: 51 2a 4d 18 | u32 length | u32 x blocks: CRC of each block as it stands here
    seek table  skippable frame: 5e 2a 4d 18 | u32 length | for each frame before: u32 its bytes here, u32
                bytes of the log in it (0 of a skippable one) | u32 number of them | 00 | b1 ea 92 8f

*durable* holds four marks: how far the active log is written and synced; see evlog/files/format/marks.py.

*queue* holds nothing that outlives the processes that have it open; see evlog/files/write/group_commit.py.

*manifest.json* is one line, `{"format":1,…,"crc32":"8 hex digits"}`, the CRC that of all bytes before
`,"crc32"`. evlog/files/log/manifest.py names its fields.

*subscriptions/NAME.json*, a checkpoint, is one line of the same form: format, store_id, name, the filter
(stream, category, types: null for all), position (scanned up to and with it), time_us. *NAME.parked* holds
such lines: position, stream, version, type, id, error, attempts, time_us of an event that was put aside (a
later line of the same position replaces an earlier one), or position and `"done":true` of one that was
replayed. What follows its last whole line was never promised. In NAME bytes other than a-z 0-9 - _ . (and a
leading .) are %xx; one longer than 200 by that is %% and base 32, lower case, unpadded.

Worked example: position 1, version 1 of stream "a", type "T", id 000102…0f, time 1, json, data `{}`, no
metadata, as the first frame of a log with the tag 7 (offset 64, durable 64):

    e5455646 21000000 01000000 40000000 0100000000000000 611eb0a3 1de4a924 07000000 8a7a7b57
    91 99 01 01 a161 a154 c410 000102030405060708090a0b0c0d0e0f 01 00 c4027b7d c0

Limits that follow: a log under 4 GiB, a frame's body at most 1 GiB, 4,294,967,295 events in a stream.
Accepted downsides: 40 + 1 bytes of frame for a single event; a frame's body is read whole to check it.
"""
