"""`evlog delete`: hide a stream, and with --tombstone refuse its name from then on."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import STORE, argument, flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Delete a stream: its events are hidden at once, and removed by the next compaction.

The stream no longer exists. If an event is appended to it again, versions continue where they were, and only
new events are visible; `evlog retain STREAM --clear` undoes the deletion until a compaction runs.
--tombstone is permanent: an append to that name is refused with exit code 3. Deleting a deleted stream is
not an error; a STREAM that never existed ends with exit code 5.

\b
  evlog delete order-42
  evlog delete order-42 --tombstone
"""


PARAMETERS: Final = (
    argument("STREAM", "Such as order-42.", required=True),
    flag("--tombstone", "Refuse the name: nothing can be appended to it again."),
    STORE,
)


def command(given: Given) -> None:
    """Delete the stream, and say up to which version."""
    stream = given.stream
    with options.open_store(given) as store:
        version = store.delete_stream(stream, tombstone=given.tombstone)
        permanent = store.retention(stream).tombstone
        options.report_torn_tails(store)
    line = f"deleted {stream} up to version {version}{', permanently' if permanent else ''}"
    as_object = {"stream": stream, "version": version, "tombstone": permanent}
    console.write_result(as_object, line, done="the stream is deleted")
