"""`evlog init`: make a store, or say that there is one."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

import evlog
from evlog.cli._support import console, options
from evlog.cli._support.options import StoreOption

HELP: Final = """Create an empty store: ./.evlog, or the directory that --store or EVLOG_STORE names.

A store that is there already stays as it is, and that is no error. `evlog append` makes a missing store by
itself; init is for those who want it to be there before, or with segments of another size: a log is cut into
segments, and the last one begins anew when it has so many bytes or events.

\b
  evlog init
  evlog init --store /var/lib/orders
  evlog init --store small --segment-bytes 4194304 --segment-events 16384
"""


def command(
    ctx: typer.Context,
    segment_bytes: Annotated[
        int | None,
        typer.Option("--segment-bytes", metavar="N", help="Bytes of a segment; 64 MiB if left out."),
    ] = None,
    segment_events: Annotated[
        int | None,
        typer.Option("--segment-events", metavar="N", help="Events of a segment; 262144 if left out."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Create the store and say where it is."""
    path = options.named_store(ctx, store) or options.DEFAULT_STORE
    sizes: dict[str, Any] = {"segment_bytes": segment_bytes, "segment_events": segment_events}
    given = {name: value for name, value in sizes.items() if value is not None}
    with evlog.open(path, create=True, **given) as opened:
        created, id = opened.created, str(opened.id)
    if not created:
        kept = ", and its segments keep their size" if given else ""
        console.note(f"there is a store at {path} already; it stays as it is{kept}")
    if console.stdout_is_terminal():
        if created:
            console.write(f"created the store {console.printable(path)}\n".encode(errors="backslashreplace"))
    else:
        console.write_object({"path": path, "id": id, "created": created})
