"""`evlog init`: create a store, or say that there is one."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import COUNT, STORE, option
from evlog.files.write.create import MAX_SEGMENT_BYTES, MAX_SEGMENT_EVENTS
from evlog.store import open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Create an empty store: ./.evlog, or the directory or URL that --store or EVLOG_STORE names.

A store that exists is left as it is, which is not an error. `evlog append` creates a missing store by itself;
use init to create it earlier, or with segments of another size: the log is a sequence of segments, and a new
one begins when the last one has this many bytes or events.

\b
  evlog init
  evlog init --store /var/lib/orders
  evlog init --store small --segment-bytes 4194304 --segment-events 16384
"""


PARAMETERS: Final = (
    option(
        "--segment-bytes",
        "N",
        "Bytes of a segment; default 67108864.",
        COUNT,
        least=1,
        most=MAX_SEGMENT_BYTES,
    ),
    option(
        "--segment-events",
        "N",
        "Events of a segment; default 262144.",
        COUNT,
        least=1,
        most=MAX_SEGMENT_EVENTS,
    ),
    STORE,
)


def command(given: Given) -> None:
    """Create the store and say where it is."""
    path = options.new_store(given)
    sizes = {"segment_bytes": given.segment_bytes, "segment_events": given.segment_events}
    wanted = {name: value for name, value in sizes.items() if value is not None}
    with open(path, create=True, **wanted) as store:
        created, id, path = store.created, str(store.id), options.printed_name(path, store)
    if not created:
        kept = ", and its segments keep their size" if wanted else ""
        console.note(f"the store {path} exists already; it was not changed{kept}")
    lines = [f"created the store {path}"] if created else []
    done = f"the store {'is created' if created else 'exists'}"
    console.write_result({"path": path, "id": id, "created": created}, *lines, done=done)
