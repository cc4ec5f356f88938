"""`evlog backup`: copy the store to another directory while others write to it."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import PATH, STORE, argument, flag
from evlog.cli._support.progress import with_progress
from evlog.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Copy the store to the directory OUT, or bring an earlier copy there up to date.

Others can write meanwhile. The copy is the store as it was at one moment, with subscriptions; to restore it,
use it. It is checked at the end: all of it the first time, later what was new (exit code 4 if it is damaged).
A backup that is interrupted leaves what the one before it left; run it again.

Segments that never change again become hard links where the file system allows it: that takes no time and no
space. --copy makes real copies, for a disk that may fail. In a pipe the result is one JSON object.

\b
  evlog backup /var/lib/backup
  evlog backup copy && evlog verify --store copy
  evlog backup --copy nightly
"""

PARAMETERS: Final = (
    argument("OUT", "A new or empty directory, or an earlier backup of this store.", PATH, required=True),
    flag("--copy", "Copy everything; do not link."),
    STORE,
)


def command(given: Given) -> int:
    """Copy, check, and print what was done."""
    from evlog.engine import scheme_of
    from evlog.files.directory import backup_store

    path = options.find_store(given)
    if options.is_url(path):
        raise Unsupported(scheme_of(path) or "", "backup, but `evlog mirror` copies it to a directory")
    done = with_progress(
        lambda progress: backup_store(path, given.out, links=not given.copy, progress=progress)
    )
    from evlog.cli.verify import line_of

    lines = [line_of(finding) for finding in done.findings]
    lines.append(
        f"{'ok' if done.ok else 'damaged'}: {console.count_of(done.events, 'event')}, {done.bytes:,} bytes"
    )
    lines.append(f"{done.copied_bytes:,} bytes copied, {done.linked_bytes:,} linked")
    said = "the backup is made" if done.ok else "the backup is damaged"
    return console.write_verdict(done.ok, done.as_object(), *lines, done=said)
