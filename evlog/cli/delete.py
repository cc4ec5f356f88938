"""`evlog delete`: hide a stream, and with --tombstone forbid its name."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from evlog.cli._support import console, options
from evlog.cli._support.options import StoreOption

HELP: Final = """Delete a stream: its events are hidden at once, and removed by the next compaction.

The stream exists no more. Should something be appended to it again, versions go on where they were, and only
what is new is there; `evlog retain STREAM --clear` takes the deletion back, as long as nothing was compacted.
--tombstone is for ever: whatever is appended to that name is refused with exit code 3. Deleting what is
deleted already is no error; a STREAM that never was ends with exit code 5.

\b
  evlog delete order-42
  evlog delete order-42 --tombstone
"""


def command(
    ctx: typer.Context,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Such as order-42.")],
    tombstone: Annotated[
        bool, typer.Option("--tombstone", help="Forbid the name: nothing can be appended to it ever again.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Delete the stream, and say up to which version."""
    with options.open_store(ctx, store) as opened:
        version = opened.delete_stream(stream, tombstone=tombstone)
        gone_for_ever = opened.retention(stream).tombstone
        options.report_torn_tails(opened)
    if console.stdout_is_terminal():
        name = console.printable(stream)
        how = ", for ever" if gone_for_ever else ""
        console.write(f"deleted {name} up to version {version}{how}\n".encode(errors="backslashreplace"))
    else:
        console.write_object({"stream": stream, "version": version, "tombstone": gone_for_ever})
