"""Opening the schema of a store, and creating it from `schema.sql`."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from evlog.engines.postgresql.connections import FORMAT
from evlog.errors import ServerUnsuitable, StoreNotFound, UnsupportedFormat

if TYPE_CHECKING:
    from evlog.engines.postgresql.connections import Address, Connection

_OLDEST_SERVER: Final = 130_000  # gen_random_uuid and sha256 without an extension

# Not to_regproc: its answer may be a cached one.
_EXISTS: Final = (
    "select exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace "
    "where n.nspname = %s and p.proname = 'describe')"
)
_IS_USED: Final = (
    "select exists (select from pg_class where relnamespace = n.oid) "
    "or exists (select from pg_proc where pronamespace = n.oid) from pg_namespace n where nspname = %s"
)


def open_schema(address: Address, connection: Connection, *, create: bool) -> tuple[str, bool]:
    """Return the store's id, and whether this has created it.

    Raises:
        StoreNotFound: there is none, and `create` is false.
        ServerUnsuitable, UnsupportedFormat: it cannot be kept here, or is too new.
    """
    _check_server(address, connection)
    created = False
    if not _exists(address, connection):
        if not create:
            raise StoreNotFound(address.text)
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(hashtextextended('evlog schema', 0))")
            if not _exists(address, connection):
                _create(address, connection)
                created = True
    row = connection.execute(address.sql("select o_format, o_store_id from {schema}.describe()")).fetchone()
    if row is None:
        raise StoreNotFound(address.text)
    if row[0] > FORMAT:
        raise UnsupportedFormat(address.text, row[0], FORMAT)
    return str(row[1]), created


def _check_server(address: Address, connection: Connection) -> None:
    if connection.info.server_version < _OLDEST_SERVER:
        reason = f"the server's version is {connection.info.server_version // 10_000}"
        raise ServerUnsuitable(address.text, reason, "use PostgreSQL 13 or later")
    row = connection.execute(
        "select current_setting('server_encoding'), pg_backend_pid(), current_setting('synchronous_commit')"
    ).fetchone()
    if row is None or row[0] != "UTF8":
        raise ServerUnsuitable(address.text, "its encoding is not UTF8", "create a database in UTF8")
    if address.may_be_pooled and row[1] != connection.info.backend_pid:
        address.listens = False  # a pooler answers, with a process id of its own; its sessions may change
    if address.listens and row[2] == "off":
        address.prologue = b"set synchronous_commit = on"
        connection.execute(address.prologue)


def _exists(address: Address, connection: Connection) -> bool:
    return bool(connection.execute(_EXISTS, (address.schema,)).fetchone() == (True,))


def _create(address: Address, connection: Connection) -> None:
    if connection.execute(_IS_USED, (address.schema,)).fetchone() == (True,):
        reason = f"its schema {address.schema} has tables or functions that are not evlog's"
        raise ServerUnsuitable(address.text, reason, "name another one in the URL: schema=NAME")
    script = files(__package__).joinpath("schema.sql").read_text("utf-8")
    connection.execute(address.sql("create schema if not exists {schema}"))
    connection.execute(address.sql("set local search_path to {schema}, pg_catalog, pg_temp"))
    connection.execute(script.encode())
    # Every user may call a new function, and these have the rights of the schema's owner.
    connection.execute(address.sql("revoke execute on all functions in schema {schema} from public"))
    connection.execute(
        "insert into log (store_id, format, position, last_time, policies, removed) "
        "values (%s, %s, 0, '-infinity', 0, 0)",
        (uuid4(), FORMAT),
    )
