"""The socket, and the loop that answers until a signal ends it.

Ctrl-C ends it at once. Answers under way are dropped, which is safe because they only read.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Final

import uvicorn

from evlog.errors import EvlogError
from evlog.process.threads import without_signals
from evlog.web.app import make_app
from evlog.web.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from evlog.store import EventStore

_HOST: Final = "127.0.0.1"
_WAITING_CONNECTIONS: Final = 64


class PortNotFree(EvlogError):
    """The page cannot be served on this port."""

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on port {port}: {reason}", "use another port, or 0 for a free one")
        self.port = port
        self.reason = reason


def serve(
    store: EventStore,
    *,
    port: int = 0,
    announce: Callable[[str], object],
    launch: Callable[[str], object] | None,
) -> None:
    """Serve the page of a store on the loopback interface, until SIGINT or SIGTERM.

    Args:
        store: open as long as this runs.
        port: 0: a free one.
        announce: called with the address, which has the token, once connections are taken.
        launch: called in a thread with an address that is good for one request: it starts a browser.

    Raises:
        PortNotFree: another process has the port, or this one may not have it.
        KeyboardInterrupt: at SIGINT.
    """
    with listen(port) as listening:
        asyncio.run(_serve(store, listening, announce, launch))


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of the loopback interface; raises PortNotFree."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((_HOST, port))
        listening.listen(_WAITING_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise PortNotFree(port, error.strerror or str(error)) from None
    return listening


async def _serve(
    store: EventStore,
    listening: socket.socket,
    announce: Callable[[str], object],
    launch: Callable[[str], object] | None,
) -> None:
    guard = Guard(make_app(store))
    address = f"http://{_HOST}:{listening.getsockname()[1]}/"
    announce(f"{address}{guard.token}/")
    if launch is not None:
        thread = threading.Thread(target=launch, args=(address + guard.code,), daemon=True)
        without_signals(thread.start)
    await make_server(guard).serve(sockets=[listening])


def make_server(guard: Guard) -> uvicorn.Server:
    """Return what answers connections until its `should_exit` is set, or a signal comes."""
    config = uvicorn.Config(
        guard,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # the page shows what fails
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=0,
    )
    return uvicorn.Server(config)
