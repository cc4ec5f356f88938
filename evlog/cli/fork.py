"""`evlog fork`: a store of its own that begins with this one's history."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import COUNT, PATH, STORE, argument, option
from evlog.cli._support.progress import with_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Make a new store that begins with this one's history, for trying things.

OUT is a new directory or a URL. Events keep their ids, versions, positions and times; the store has an id of
its own, and no subscriptions. This store is only read, and both go their own ways from then on. A fork that
was interrupted is run again with the same arguments. In a pipe the result is one JSON object.

\b
  evlog fork what-if && evlog append -s what-if order-42 OrderCancelled
  evlog fork before-the-import --at 1
"""

PARAMETERS: Final = (
    argument("OUT", "The new store: a directory or a URL.", PATH, required=True),
    option("--at", "POSITION", "The last position to copy; all if left out.", COUNT, least=0),
    STORE,
)


def command(given: Given) -> None:
    """Copy, and print what the new store begins with."""
    from evlog.store import open
    from evlog.transfer.fork import fork, last_position

    with options.open_store(given) as store:
        at = last_position(store, given.at)  # before anything is made
        with open(given.out, create=True) as new:
            done = with_progress(
                lambda progress: fork(store, new, at=at, progress=progress), counts_bytes=False
            )
            name = options.printed_name(given.out, new)
    line = f"created the store {name}; it has everything up to {done.position:,}"
    console.write_result({"path": name, **done._asdict()}, line, done="the store is made")
