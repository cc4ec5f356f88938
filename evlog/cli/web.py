"""`evlog web`: a page over the store, for the browser on this machine."""

from __future__ import annotations

import os
import sys

from evlog.cli._support import console, options
from evlog.cli._support.parameters import COUNT, STORE, flag, option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Serve a page over the store to the browser on this machine, until Ctrl-C.

The live log with filters, single events with what caused them, streams, subscriptions and the state of the
store. The page only reads. It is served on 127.0.0.1, and its address has a random token: without it nothing
is shown. Where there is a desktop, a browser is started with it.

The address is printed: on a terminal as it is, in a pipe as JSON, {"url":…}. It needs Starlette and uvicorn
(pip install 'evlog-store[web]'; exit code 10 without them).

\b
  evlog web --no-browser
  evlog --store orders web --no-browser
  ssh -L 8123:127.0.0.1:8123 host evlog -s /srv/orders web --port 8123
"""

PARAMETERS: Final = (
    option("--port", "N", "Listen on this port; a free one if left out.", COUNT, most=65535),
    flag("--no-browser", "Only print the address."),
    STORE,
)


def command(given: Given) -> None:
    """Serve until a signal comes."""
    from evlog.web.server import serve

    def announce(url: str) -> None:
        if console.stdout_is_terminal():
            console.write(f"{url}\n".encode())
        else:
            console.write_object({"url": url})
        console.flush()
        console.note("the page only reads; Ctrl-C ends it")

    with options.open_store(given) as store:
        launch = None if given.no_browser or not _has_desktop() else _launch
        serve(store, port=given.port or 0, announce=announce, launch=launch)


def _has_desktop() -> bool:
    """Return whether a browser can open a window. A browser in the terminal would take over the terminal."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME")
    )


def _launch(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        console.note("no browser could be started; open the address in one")
