"""A proxy in front of a stand-in for DynamoDB that makes its indexes late: items are shown after some looks.

The service's own indexes are late, and not in order; the stand-in's are not.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_RANDOM_LOOKS = 4


class LateIndex:
    """Hides items from queries of an index by their attribute `position`.

    Attributes:
        looks_in_vain: how many queries were answered without an item that is there.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._mutex = threading.Lock()  # guards the next four
        self._looks: dict[int, int] = {}  # for how many more queries a position is hidden
        self._is_random = False
        self._random = random.Random(7)
        self.looks_in_vain = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, kind, answer = proxy.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port

    def hide(self, positions: Iterable[int], looks: int) -> None:
        """Hide positions from the next queries that reach them."""
        with self._mutex:
            self._looks = dict.fromkeys(positions, looks)

    def hide_at_random(self) -> None:
        """Hide every position from the first queries that reach it, from some more and some fewer."""
        self._is_random = True

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        """Return the server's answer without the hidden items."""
        others = ("accept-encoding", "content-length")
        headers = {name: value for name, value in headers.items() if name.lower() not in others}
        connection = http.client.HTTPConnection("127.0.0.1", self._server_port)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            status, kind, answer = response.status, response.getheader("Content-Type", ""), response.read()
            request = json.loads(body)
            if "IndexName" in request and status == 200:
                found = json.loads(answer)
                # What a filter leaves out is counted, too, so the same query is asked without one.
                bare = {name: value for name, value in request.items() if name != "FilterExpression"}
                for part in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
                    used = bare["KeyConditionExpression"].split()
                    bare[part] = {name: value for name, value in bare[part].items() if name in used}
                connection.request("POST", path, json.dumps(bare).encode(), headers)
                everything = json.loads(connection.getresponse().read())["Items"]
                hidden = self._hidden({int(item["position"]["N"]) for item in everything})
                left = [item for item in found["Items"] if int(item["position"]["N"]) not in hidden]
                found |= {"Items": left, "Count": len(left)}
                found["ScannedCount"] -= len(hidden)
                answer = json.dumps(found).encode()
        finally:
            connection.close()
        return status, kind, answer

    def _hidden(self, positions: set[int]) -> set[int]:
        with self._mutex:
            if self._is_random:
                for position in positions:
                    self._looks.setdefault(position, self._random.randrange(_RANDOM_LOOKS))
            hidden = {position for position in positions if self._looks.get(position, 0) > 0}
            for position in hidden:
                self._looks[position] -= 1
            self.looks_in_vain += bool(hidden)
        return hidden


@contextmanager
def late_index(server_port: int) -> Iterator[LateIndex]:
    """Run the proxy inside the block."""
    proxy = LateIndex(server_port)
    thread = threading.Thread(target=proxy.server.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()
