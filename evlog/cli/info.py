"""`evlog info`: the store in numbers."""

from __future__ import annotations

from evlog.cli._support import options
from evlog.cli._support.parameters import LISTED_FIELDS, LISTING, STORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Show what is in the store: counts, bytes on disk, segments, first and last position and time.

In a pipe it is one JSON object; positions are 0 and times null while the store is empty. "policies" counts
the streams and categories for which `evlog retain` has set something; deleted streams are counted apart.
"saved_bytes" is how many bytes `evlog compact --compress` saved in "compressed_segments".
"capabilities" say what the store's engine can do, and what an append survives. A mirror has "mirror_of", a
fork that was interrupted "unfinished_fork", a store that was moved "moved_to"; while `append --lines
--time-field` runs, and when it was killed, there is "importing".

\b
  evlog info
  evlog info --store /var/lib/orders | cat
"""


PARAMETERS: Final = (LISTING, LISTED_FIELDS, STORE)


def command(given: Given) -> None:
    """Print the numbers."""
    from evlog.cli._support.listing import print_one
    from evlog.model.events import microseconds_of

    with options.open_store(given) as store:
        info, can, standing = store.info(), store.capabilities, store.standing
    times = {"first_time": info.first_time, "last_time": info.last_time}
    row = info._asdict() | {name: at and microseconds_of(at) for name, at in times.items()}
    row["capabilities"] = vars(can)
    if standing.is_import:
        row["importing"] = True
    elif standing.is_unfinished_fork:
        row["unfinished_fork"] = True
    else:
        row |= {name: text for name, text in standing._asdict().items() if text}
    print_one(given, row, list(row), cells=_CELLS)


def _number(value: int) -> str:
    return f"{value:,}"


def _clock(ahead_seconds: float) -> str:
    if ahead_seconds < 1:
        return "0"
    return f"{ahead_seconds:,.0f}: all later events get the time of the last one"


_CELLS: Final[dict[str, Callable[[Any], str]]] = {
    **dict.fromkeys(("events", "streams", "bytes", "segments", "saved_bytes"), _number),
    "clock_ahead_seconds": _clock,
    "capabilities": lambda can: f"{can['engine']}: {can['durability']}",
}
