"""Stores to look at, and the command that serves them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import uvicorn

import evlog
from evlog import EventStore, NewEvent
from evlog.web.app import make_app
from evlog.web.guard import Guard
from evlog.web.server import listen, make_server
from tests.cli.conftest import start

LONG_SECONDS = 60


class Served(NamedTuple):
    """A running `evlog web`."""

    url: str
    store: EventStore
    """the same store, opened here"""

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    def request(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        """Make one request; `path` is below the token, or begins with a slash."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=LONG_SECONDS)
        try:
            connection.request(
                method, path if path.startswith("/") else self.path + path, headers=headers or {}
            )
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def ask(self, path: str) -> Any:
        answer, content = self.request(path)
        assert answer.status == 200, content
        return json.loads(content)


@contextmanager
def serving(store: EventStore, *options: str) -> Iterator[Served]:
    """Run `evlog web` on the store until the end of the block."""
    process = start("--store", store.path, "web", "--no-browser", *options)
    assert process.stdout is not None
    try:
        yield Served(json.loads(process.stdout.readline())["url"], store)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LONG_SECONDS)


@contextmanager
def serving_here(store: EventStore) -> Iterator[Served]:
    """Serve the page by a thread of this process, which takes a tenth of the time of a process."""
    addresses: SimpleQueue[tuple[str, uvicorn.Server]] = SimpleQueue()

    async def run() -> None:
        guard = Guard(make_app(store))
        server = make_server(guard)
        addresses.put((f"http://127.0.0.1:{listening.getsockname()[1]}/{guard.token}/", server))
        await server.serve(sockets=[listening])

    with listen(0) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        url, server = addresses.get()
        try:
            yield Served(url, store)
        finally:
            server.should_exit = True
            thread.join()


def chromium() -> str | None:
    """Return the browser; without one a test fails in CI and is skipped elsewhere."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if os.environ.get("CI") or os.environ.get("EVLOG_TEST_SERVERS"):
        assert found, "Chromium is needed: .ci/run installs it"
    return found


def fill(store: EventStore) -> None:
    """Append 300 events of 30 streams, with tags, users and a link here and there."""
    for number in range(30):
        events = [
            NewEvent(
                "Placed" if at == 0 else "Paid" if at == 9 else "Changed",
                {"number": number, "at": at},
                tags=[f"customer:{number % 3}"] if at == 0 else (),
                metadata={"user": "ann" if number % 2 else "ben"},
            )
            for at in range(10)
        ]
        store.append(f"{'order' if number % 2 else 'cart'}-{number:02}", events)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStore]:
    """A store that the tests of one module share."""
    path: Path = tmp_path_factory.mktemp("web") / "store"
    with evlog.open(path, create=True) as store:
        fill(store)
        yield store


@pytest.fixture(scope="module")
def served(store: EventStore) -> Iterator[Served]:
    with serving(store) as served:
        yield served
