"""A server that refuses every call of AWS's JSON protocol with one error code, or knows nothing of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def refusing(code: str, page: bytes | None = None) -> Iterator[int]:
    """Run the server inside the block, and give its port. With a page of HTML, that is its answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = page or json.dumps({"__type": f"x#{code}", "message": "no\nreason"}).encode()
            self.send_response(200 if page else 500 if code == "InternalServerError" else 400)
            self.send_header("Content-Type", "text/html" if page else "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
