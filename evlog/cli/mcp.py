"""`evlog mcp`: a server of the Model Context Protocol on stdin and stdout."""

from __future__ import annotations

import signal
import sys

from evlog.cli._support import console, options
from evlog.cli._support.parameters import STORE, flag
from evlog.cli._support.stdin import stdin_descriptor
from evlog.cli._support.stops import end_at_once_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Serve the store to an assistant, by the Model Context Protocol on stdin and stdout.

A client starts this command. Its tools list streams and types, read, show and fold events, and tell about
subscriptions and the store. They only read; --allow-append adds one that appends, with an expected version.
It ends with stdin. It needs the official SDK (pip install 'evlog-store[mcp]'; exit code 10 without it).

\b
  evlog mcp < /dev/null
  evlog mcp --store orders --allow-append < /dev/null
"""

PARAMETERS: Final = (flag("--allow-append", "Also offer a tool that appends."), STORE)


def command(given: Given) -> None:
    """Serve until stdin ends."""
    stdin_descriptor()  # the SDK would fail on a stdin or stdout that is closed
    if sys.stdout is None:
        raise console.OutputFailed("it is closed")
    from evlog.adapters.mcp import make_server

    # Ctrl-C ends it at once, as SIGTERM does: the SDK would wait for a call under way, and for stdin.
    former = signal.getsignal(signal.SIGINT)
    if former is not signal.SIG_IGN:  # as a shell has it for what runs in the background
        end_at_once_by(signal.SIGINT)
    try:
        with options.open_store(given) as store:
            make_server(store, allow_append=given.allow_append).run()
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):  # the SDK's tasks wrap the error of each task
            error = error.exceptions[0]
        raise console.ClosedPipe if isinstance(error, BrokenPipeError) else error from None
    finally:
        signal.signal(signal.SIGINT, former)
