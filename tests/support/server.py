"""Servers of peers: started on loopback with a free port, ended by process id, their memory looked at.

Each serves one directory and leaves its address there, so that any process can connect. Nothing outlives the
`with` block that it was started in. A server that refuses to run as root is run as another user, which then
owns its directory.
"""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_CLAIMS: list[socket.socket] = []  # open until this process ends


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def is_running(self) -> bool:
        return self._process.poll() is None

    def memory_bytes(self) -> int:
        """Return the memory of it and its children at this moment, shared pages counted once."""
        return sum(map(_proportional_bytes, _tree(self._process.pid)))

    def stop(self, stop_signal: int) -> None:
        """End it by SIGTERM, or by SIGKILL if that takes too long."""
        if self.is_running():
            self._process.send_signal(stop_signal)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(
    command: Sequence[object],
    directory: Path,
    is_ready: Callable[[], object],
    *,
    stop_signal: int = signal.SIGTERM,
    user: str | None = None,
) -> Iterator[Server]:
    """Run a server's command inside the block.

    Args:
        is_ready: asked until it neither raises nor answers false.
        user: the user that runs it; only root can name another one.
    """
    log = directory / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            user=user if can_switch() else None,
            group=group_of(user) if can_switch() else None,
        )
    server = Server(process)
    try:
        _await(server, is_ready, log)
        yield server
    finally:
        server.stop(stop_signal)


def can_switch() -> bool:
    """Return whether a process can be run as another user."""
    return os.geteuid() == 0


def group_of(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def give_to(user: str | None, directory: Path) -> None:
    """Make another user the owner of a directory."""
    if user is not None and can_switch():
        entry = pwd.getpwnam(user)
        os.chown(directory, entry.pw_uid, entry.pw_gid)


def free_port() -> int:
    """Return a port of loopback that stays free for this process, also while its server is killed.

    It is below those that the system gives to outgoing connections. The same port of UDP is bound, which
    keeps other processes that call this away.
    """
    for port in random.sample(range(15_000, 32_768), 1000):
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)):
                pass
        except OSError:
            claim.close()  # taken by another process
        else:
            _CLAIMS.append(claim)
            return port
    raise AssertionError("no port is free")


def write_address(directory: Path, port: int) -> None:
    (directory / "port").write_text(str(port))


def read_address(directory: Path) -> int:
    return int((directory / "port").read_text())


def accepts(port: int) -> bool:
    """Return whether a server listens there."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _await(server: Server, is_ready: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            if is_ready():
                return
        except Exception:
            if time.monotonic() > deadline:
                raise
        if not server.is_running() or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except OSError:
            continue
        pids.extend(map(int, children.split()))
    return pids


def _proportional_bytes(pid: int) -> int:
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(row.split()[1]) for row in rows if row.startswith("Pss:"))
