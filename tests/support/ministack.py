"""A stand-in for DynamoDB: a process of the tests' own, on loopback and a free port, with nothing on disk."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.support.programs import dying_with_us, suspended
from tests.support.server import accepts, free_port

IS_INSTALLED = all(map(importlib.util.find_spec, ("botocore", "ministack")))
# What AWS's own chain finds, for botocore in this process and those that it starts.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
REGION = "eu-central-1"
_START_SECONDS = 60.0


class Ministack:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        settings = {
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "SERVICES": "dynamodb",
            "LOG_LEVEL": "ERROR",
            "TMPDIR": str(self._folder),
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*dying_with_us(), sys.executable, "-m", "ministack"],
                env=os.environ | settings,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not accepts(self.port):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend it inside the block."""
        assert self._process is not None
        with suspended(self._process.pid):
            yield

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def url(self, table: str, port: int | None = None) -> str:
        """Return the URL of a store, here or behind a proxy."""
        endpoint = quote(f"http://127.0.0.1:{port or self.port}", safe=":/")
        return f"dynamodb://{REGION}/{table}?endpoint={endpoint}"


@contextmanager
def serving() -> Iterator[Ministack]:
    """Run a server inside the block."""
    with tempfile.TemporaryDirectory(prefix="evlog-ministack-") as folder:
        server = Ministack(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
