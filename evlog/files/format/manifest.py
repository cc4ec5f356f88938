"""`manifest.json`: what a store consists of. A file that it does not name does not exist.

    {"format":1,"store_id":"UUID","segment_bytes":N,"segment_events":N,"fields":["first_position",…],"segments":[
    [1,0,2873214873,…],
    [262145,0,1127362319,…]
    ],"crc32":"8 hex digits"}

A mirror has "mirror_of":"UUID" and a store that has moved "moved_to":"ADDRESS" before "fields". A UUID of
version 5 is that of an unfinished fork, one of version 8 of an import with times (`evlog/model/history.py`).
Before these is "highest_id":"32 hex digits", if it is known: no event of a sealed segment, also no removed
one, has an id above it. The written mark (marks.py) says so of all events; it is also here because the mark
may be lost.

One line a segment, in position order, its numbers named by `fields`; the last segment is the active one, and
for every other the line says what must be true of its files (0 where that does not apply). The rule for the
CRC is in `lines.py`. A line that was read before is recognized by its bytes: so a manifest of thousands of
segments of which one is new costs little to encode or decode. A reader decodes only the lines of the segments
that it looks into, each when it is asked for: opening a store takes 0.5 µs instead of 5 µs a segment.
"""

from __future__ import annotations

from bisect import bisect_left

from evlog.errors import CorruptionError
from evlog.files.format import paths
from evlog.files.format.frames import MAX_LOG_BYTES
from evlog.files.format.headers import FORMAT_VERSION, FileHeader, FormatFault, NewerFormat
from evlog.files.format.lines import check_line, decode_object, sign_line
from evlog.files.format.marks import UNBOUNDED
from evlog.files.format.paths import SegmentFile
from evlog.model.json_text import encode_json
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final, overload

    Standing = tuple[str, str]
    """mirror_of and moved_to of `evlog.model.history.Standing`, which few processes import"""

_U32: Final = (1 << 32) - 1
_MAX_NUMBER: Final = (1 << 63) - 1
_MAX_ADDRESS: Final = 8192  # characters
OPEN: Final = ("", "")


class SegmentInfo(NamedTuple):
    """One segment as the manifest knows it; from `last_position` on, facts of a sealed one (0 if active).

    `log_bytes` is the length of the log itself, compressed or not. Of a compacted segment, positions and
    times bound what was there before; what was removed is in its .removed file. Of a salvaged one
    `lost_events` counts the positions, in it and right before it, that could not be recovered.
    """

    first_position: int
    generation: int
    tag: int
    last_position: int = 0
    events: int = 0
    log_bytes: int = 0
    offsets_crc: int = 0
    first_time_us: int = 0
    last_time_us: int = 0
    removed_events: int = 0
    removed_bytes: int = 0
    removed_crc: int = 0
    lost_events: int = 0
    compressed_bytes: int = 0  # of the file that holds the log compressed, 0 if it is not compressed
    tagged_events: int = 0  # how many events have tags; without any there is no file .tags

    @property
    def sealed(self) -> bool:
        return self.last_position > 0

    @property
    def log_suffix(self) -> str:
        """The suffix of the file that holds the log."""
        return paths.COMPRESSED_LOG if self.compressed_bytes else paths.LOG

    @property
    def log_file(self) -> SegmentFile:
        """The meaning of the log's file name. Two logs with one name hold the same bytes."""
        return SegmentFile(self.first_position, self.generation, self.log_suffix)

    @property
    def name(self) -> str:
        """The path of its files below the store, without their suffix."""
        return paths.segment_name(self.first_position, self.generation)

    def path(self, store: str, suffix: str) -> str:
        """Return the path of one of its files."""
        return paths.segment_path(store, self.first_position, self.generation, suffix)

    def header(self, kind: int, store_id: bytes) -> FileHeader:
        """Return the header of its file of this kind, without counts."""
        return FileHeader(kind, self.generation, store_id, self.first_position, self.tag)


class SegmentRows:
    """The segments of a manifest, each decoded when it is asked for.

    What may be wrong with a line whose CRC holds is a CorruptionError where it is decoded: also that the next
    segment does not follow. To compare all lines would be a tenth of the first look-up in a store of 100
    segments.

    Args:
        rows: the lines, without brackets.
        path: of the manifest.
    """

    __slots__ = ("_path", "rows")

    def __init__(self, rows: list[bytes], path: str) -> None:
        self.rows = rows
        self._path = path

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, at: int) -> SegmentInfo: ...
        @overload
        def __getitem__(self, at: slice) -> tuple[SegmentInfo, ...]: ...

    def __getitem__(self, at: Any) -> Any:
        places = range(len(self.rows))[at]
        try:
            return tuple(map(self._decode, places)) if isinstance(places, range) else self._decode(places)
        except FormatFault as fault:
            raise CorruptionError(self._path, None, f"the manifest is not whole: {fault}") from None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SegmentInfo]:
        return iter(self[:])

    def decode_all(self) -> tuple[SegmentInfo, ...]:
        """Decode all lines.

        Raises:
            FormatFault: a line is not a segment's, or the next segment does not follow.
        """
        return tuple(map(self._decode, range(len(self.rows))))

    def _decode(self, place: int) -> SegmentInfo:
        info = _decode_row(self.rows[place])
        if place == len(self.rows) - 1:
            if info.sealed:
                raise FormatFault("the last segment is not the active one")
        elif not info.sealed or not int(self.rows[place + 1].partition(b",")[0]) > info.last_position:
            raise FormatFault(f"the segment of position {info.first_position} overlaps the next one")
        return info


class Manifest(NamedTuple):
    """The content of manifest.json."""

    store_id: str
    segment_bytes: int
    segment_events: int
    segments: tuple[SegmentInfo, ...] | SegmentRows
    standing: Standing = OPEN
    highest_id: bytes = UNBOUNDED

    @property
    def store_id_bytes(self) -> bytes:
        return bytes.fromhex(self.store_id.replace("-", ""))

    @property
    def removed_events(self) -> int:
        """How many events all compactions have removed."""
        return sum(info.removed_events for info in self.segments)

    def names(self, file: SegmentFile) -> bool:
        """Return whether the file is a part of the store."""
        at = bisect_left(self.segments, file.first_position, key=lambda info: info.first_position)
        if at == len(self.segments) or self.segments[at].log_file[:2] != file[:2]:
            return False
        own = self.segments[at].log_suffix
        return file.suffix == own or file.suffix not in (paths.LOG, paths.COMPRESSED_LOG)


_HEAD: Final = (
    '{"format":%d,"store_id":"%s","segment_bytes":%d,"segment_events":%d,%s%s"fields":["'
    + '","'.join(SegmentInfo._fields)
    + '"],"segments":['
)
_ROW: Final = b",".join([b"%d"] * len(SegmentInfo._fields))
_BEGIN: Final = b"\n["
_BETWEEN: Final = b"],\n["
_END: Final = b"]\n]"
# Lines and what they say, in both directions. Threads share it: each step is one operation on a dict.
_known: Final[dict[bytes, SegmentInfo]] = {}
_lines: Final[dict[SegmentInfo, bytes]] = {}
_MAX_KNOWN: Final = 1 << 16


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the content of manifest.json."""
    segments = manifest.segments
    if isinstance(segments, SegmentRows):
        rows = segments.rows
    else:
        rows = [_lines.get(info) or _encode_row(info) for info in segments]
    return sign_line(b"".join((_encode_head(manifest), _BEGIN, _BETWEEN.join(rows), _END)))


def _encode_head(manifest: Manifest) -> bytes:
    standing = "" if manifest.standing == OPEN else _encode_standing(manifest.standing)
    settings = manifest.segment_bytes, manifest.segment_events
    highest = "" if manifest.highest_id == UNBOUNDED else f'"highest_id":"{manifest.highest_id.hex()}",'
    return (_HEAD % (FORMAT_VERSION, manifest.store_id, *settings, highest, standing)).encode()


def decode_manifest(raw: bytes, path: str | None = None) -> Manifest:
    """Decode and validate the content of manifest.json.

    Args:
        path: then the segments are decoded when they are asked for, and errors name this path.

    Raises:
        FormatFault: it is damaged, or does not describe a store; NewerFormat: it is of a later format.
    """
    body = check_line(raw)
    try:
        head, _, rest = body.partition(_BEGIN)
        document = decode_object(head + b"]}")
        if type(document["format"]) is int and document["format"] > FORMAT_VERSION:
            raise NewerFormat(document["format"])
        rows = SegmentRows(rest.removesuffix(_END).split(_BETWEEN), path or paths.MANIFEST)
        manifest = Manifest(
            document["store_id"],
            document["segment_bytes"],
            document["segment_events"],
            rows if path is not None else rows.decode_all(),
            (document.get("mirror_of", ""), document.get("moved_to", "")),
            bytes.fromhex(document["highest_id"]) if "highest_id" in document else UNBOUNDED,
        )
        validate_manifest(manifest)
        if not rest.endswith(_END) or head != _encode_head(manifest):  # each line is compared, too
            raise FormatFault("it is not written as a manifest is")
    except FormatFault:
        raise
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise FormatFault(f"it does not describe a store: {error!r}") from None
    return manifest


def validate_manifest(manifest: Manifest) -> None:
    """Raise FormatFault if the values contradict each other."""
    if len(manifest.store_id_bytes) != 16:
        raise FormatFault("store_id is not a UUID")
    if len(manifest.highest_id) != 16:
        raise FormatFault("highest_id does not have 16 bytes")
    numbers = (manifest.segment_bytes, manifest.segment_events)
    if any(type(number) is not int or number < 1 for number in numbers) or not manifest.segments:
        raise FormatFault("segment_bytes, segment_events and segments must not be empty")
    if manifest.standing != OPEN:
        _check_standing(manifest.standing)
    if manifest.segments[-1].compressed_bytes:
        raise FormatFault("the active segment is compressed")


def _encode_standing(standing: Standing) -> str:
    named = zip(("mirror_of", "moved_to"), standing, strict=True)
    return "".join(f'"{name}":{encode_json(value)},' for name, value in named if value)


def _check_standing(standing: Standing) -> None:
    if any(type(text) is not str or len(text) > _MAX_ADDRESS for text in standing):
        raise FormatFault("mirror_of and moved_to must be texts")
    if standing[0] and len(bytes.fromhex(standing[0].replace("-", ""))) != 16:
        raise FormatFault("mirror_of is not a UUID")


def _encode_row(info: SegmentInfo) -> bytes:
    line = _ROW % info
    _remember(line, info)
    return line


def _decode_row(line: bytes) -> SegmentInfo:
    """Decode and validate one segment's line. Raises FormatFault."""
    info = _known.get(line)
    if info is not None:
        return info
    try:
        info = SegmentInfo(*map(int, line.split(b",")))
    except (TypeError, ValueError) as error:
        raise FormatFault(f"a segment's line is not one: {error}") from None
    if _ROW % info != line:
        raise FormatFault("a segment's line is not written as a manifest's is")
    if min(info) < 0 or max(info) > _MAX_NUMBER or not info.first_position:
        raise FormatFault(f"the segment of position {info.first_position} has a number out of range")
    if max(info.generation, info.tag, info.events, info.offsets_crc) > _U32 or info.log_bytes > MAX_LOG_BYTES:
        raise FormatFault(f"the segment of position {info.first_position} has a number that is too large")
    if info.sealed and info.last_position - info.first_position + 1 < info.events:
        raise FormatFault(f"the segment of position {info.first_position} has more events than positions")
    if info.tagged_events > info.events:
        raise FormatFault(
            f"the segment of position {info.first_position} has more events with tags than events"
        )
    if info.sealed and not info.events and not info.removed_bytes:
        raise FormatFault(f"the segment of position {info.first_position} is sealed and empty")
    _remember(line, info)
    return info


def _remember(line: bytes, info: SegmentInfo) -> None:
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
        _lines.clear()
    _known[line] = info
    _lines[info] = line
