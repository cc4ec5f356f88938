"""PgBouncer in front of a PostgreSQL server of the tests, on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.postgresql import server_user
from tests.support.server import accepts, free_port, give_to, running

_CONFIGURATION = """\
[databases]
postgres = host=127.0.0.1 port={server_port} user=evlog

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {connections}
ignore_startup_parameters = extra_float_digits
server_login_retry = 0.1
"""


def program() -> str | None:
    """Return PgBouncer's path, if it is installed; Debian keeps it where only root looks."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def pooling(folder: Path, server_port: int, *, mode: str, connections: int) -> Iterator[int]:
    """Run PgBouncer inside the block, and give its port."""
    found = program()
    assert found is not None
    port = free_port()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        _CONFIGURATION.format(server_port=server_port, port=port, mode=mode, connections=connections)
    )
    user = server_user()
    give_to(user, folder)
    with running([found, configuration], folder, lambda: accepts(port), user=user):
        yield port
