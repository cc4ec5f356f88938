"""A TCP proxy in front of a server, which cuts a connection between a request and its answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

REQUEST, ANSWER = "request", "answer"


class TcpProxy:
    """Forwards loopback connections. After `cut(what)` the next bytes of that kind end their connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._mutex = threading.Lock()  # guards the three below
        self._cut: str | None = None
        self._passing = 0  # this many of that kind pass before
        self._sockets: list[socket.socket] = []
        self.cuts = 0

    def cut(self, what: str, passing: int = 0) -> None:
        """Drop a REQUEST before the server gets it, or an ANSWER before the client does; first some pass."""
        with self._mutex:
            self._cut = what
            self._passing = passing

    def run(self) -> None:
        """Accept connections until `close`."""
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._mutex:
                self._sockets += (client, server)
            for source, target, what in ((client, server, REQUEST), (server, client, ANSWER)):
                threading.Thread(target=self._forward, args=(source, target, what), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, what: str) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._mutex:
                    if self._cut == what and self._passing:
                        self._passing -= 1
                    elif self._cut == what:
                        self._cut = None
                        self.cuts += 1
                        break
                target.sendall(data)
        except OSError:
            pass  # the other direction has ended
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # ended before

    def close(self) -> None:
        """End the listener and all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._mutex:
            for each in self._sockets:
                each.close()


@contextmanager
def proxying(port: int) -> Iterator[TcpProxy]:
    """Run a proxy in front of a port inside the block."""
    proxy = TcpProxy(port)
    thread = threading.Thread(target=proxy.run)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
