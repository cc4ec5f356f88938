"""Events after the last segment that the manifest names: the manifest is older than the log.

A writer puts events into a segment only once the manifest that names the segment is durable. So where a later
segment has events, an older manifest.json was put in place, or a backup into this directory was interrupted.
A writer would begin its next segment in the place of the later one.
"""

from __future__ import annotations

import os

from evlog.errors import CorruptionError, EvlogError
from evlog.files.disk.files import ReadFile, list_directory
from evlog.files.format import paths
from evlog.files.format.frames import FRAME_HEADER_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.format.manifest import Manifest


def holds_events(path: str) -> bool:
    """Return whether a log has anything but zeros after its header."""
    try:
        raw = ReadFile(path).read(FILE_HEADER_BYTES + FRAME_HEADER_BYTES, 0)
    except (FileNotFoundError, EvlogError):
        return False
    return bool(raw[FILE_HEADER_BYTES:].strip(b"\0"))


def is_later(manifest: Manifest, name: str) -> bool:
    """Return whether a file of this name is a log that begins after the manifest's last segment."""
    meaning = paths.maybe_parse_segment_name(name)
    return (
        meaning is not None
        and meaning.suffix in (paths.LOG, paths.COMPRESSED_LOG)
        and meaning.first_position > manifest.segments[-1].first_position
    )


def maybe_later_log(store: str, manifest: Manifest) -> str | None:
    """Return the path of the first log that holds events after the manifest's last segment, if there is one.

    A manifest that was replaced meanwhile may name it.
    """
    directory = paths.segments_path(store)
    later = [f"{directory}/{name}" for name in list_directory(directory) if is_later(manifest, name)]
    return next(filter(holds_events, later), None)


def outdated(store: str, later: str) -> CorruptionError:
    """Return the error for a manifest that is older than a log that holds events."""
    return CorruptionError(paths.manifest_path(store), None, outdated_detail(later))


def outdated_detail(later: str) -> str:
    """Say what is wrong with a manifest that is older than the log at a path."""
    name = f"{paths.SEGMENTS}/{os.path.basename(later)}"
    return f"it is older than {name}, which holds later events; put the newest one back, or remove that log"
