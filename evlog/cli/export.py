"""`evlog export`: write events to a file, in the format of its suffix."""

from __future__ import annotations

from itertools import islice

from evlog.cli import read
from evlog.cli._support import console, options
from evlog.cli._support.parameters import BOUND, FILTER, PATH, STORE, WHEN, argument, flag, option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event

HELP: Final = """Write events to FILE, in the format of its suffix:

\b
  .jsonl .jsonl.gz .jsonl.zst  one event a line, as `evlog read` prints it
  .csv                         with a header
  .sqlite                      a table `events` with indexes, a view `streams`
  .parquet                     typed columns; needs the extra `parquet`
  .cloudevents.jsonl           CloudEvents 1.0, also with .gz or .zst

The file takes its name in one step, so an export that is interrupted leaves the one before. --append keeps
what is in the file and continues after its last position; it refuses a file with the content of an event that
is redacted. --fields makes columns of values in the data, of the type that holds them all. Filters are those
of `evlog read`. In a pipe the result is one JSON object.

\b
  evlog export orders.csv --category order
  evlog export nightly.jsonl.gz --append
  evlog export shop.sqlite --since 7d
  evlog export paid.parquet --type OrderPaid --fields position,data.amount
"""

PARAMETERS: Final = (
    argument("FILE", "The file to write.", PATH, required=True),
    flag("--append", "Keep the file's events and add what came since."),
    option("--fields", "a,b,data.c", "Only these columns; .parquet alone."),
    option("--stream", "STREAM", "Only this stream."),
    option("--from", "N", "The first position, or version with --stream.", BOUND, name="first"),
    option("--to", "N", "The last position, or version with --stream.", BOUND, name="last"),
    option("--after", "N", "Begin after this one.", BOUND),
    *FILTER,
    option("--until", "WHEN", "Written before then.", WHEN),
    option("--limit -n", "N", "At most N events.", BOUND),
    STORE,
)


def command(given: Given) -> None:
    """Export, and print what was written."""
    from evlog.cli._support.fields import EVENT_FIELDS, parse_fields
    from evlog.cli._support.progress import with_progress
    from evlog.cli._support.stops import Stopped, Stops, end_by
    from evlog.transfer.export import check_suffix, export

    check_suffix(given.file, with_fields=given.fields is not None)
    known = (*EVENT_FIELDS, "raw")
    fields = None if given.fields is None else parse_fields(given.fields, known)
    read.check_selection(given)
    selection = read.selection_of(given)
    with options.open_store(given) as store:

        def later(position: int) -> Iterator[Event]:
            if not position:
                return read.select(store, given, selection)
            if given.stream is None:
                after = max(position, given.after or 0, (given.first or 1) - 1)
                return store.read_all(after, given.last, category=given.category, **selection)
            events = read.select(store, given, selection | {"limit": None})
            return islice((event for event in events if event.position > position), given.limit)

        redactions = store.redactions() if given.append else []
        settings = {
            "store_id": str(store.id),
            "append": given.append,
            "redacted": {position for made in redactions for position in made.positions},
            "fields": fields,
            "head": store.head,
        }
        try:
            with Stops(watch_reader=False):  # so that SIGTERM also removes the unfinished file
                done = with_progress(
                    lambda progress: export(given.file, later, progress=progress, **settings),
                    counts_bytes=False,
                )
        except Stopped as stopped:
            end_by(stopped)
    count = console.count_of(done.events, "event")
    line = f"{count} written to {done.path}, which ends at position {done.position:,}"
    console.write_result(done._asdict(), line, done="the file is written")
