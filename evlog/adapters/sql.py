"""SQL over a store, by DuckDB: the views `events`, `streams`, and one for each event type.

1. DuckDB says which columns a query names and which conditions it has on them. Only those columns are made,
   and conditions on position, time, stream, category and type choose what is read, by the store's indexes.
2. Every scan of one object sees the events up to the position at which it was made.
3. Nothing is written and nothing is fetched: DuckDB's database is in memory, it may open no file and load no
   extension.

Events are as they are stored: what retention hides is there until a compaction removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from evlog.errors import EvlogError, ExtraNotInstalled, InvalidArgument
from evlog.model.events import MAX_TIME_US, SYSTEM_PREFIX, category_of, maybe_name_fault
from evlog.model.filters import EventFilter, LogSelection

try:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as ds
except ImportError as error:
    raise ExtraNotInstalled("SQL", (error.name or "duckdb").partition(".")[0], "sql", error) from error

from evlog.adapters.predicates import Bounds, bounds_of, is_plain, words_of
from evlog.adapters.rewriting import NEWEST_FIRST, rewritten
from evlog.transfer import arrow
from evlog.transfer.export import in_batches

if TYPE_CHECKING:
    from evlog.model.events import Record
    from evlog.model.reports import StreamInfo
    from evlog.store import EventStore

_BATCH: Final = 2048  # events: as many as DuckDB works on at a time
_JSON: Final = {"ARROW:extension:name": "arrow.json", "ARROW:extension:metadata": ""}
_UUID: Final = {"ARROW:extension:name": "arrow.uuid", "ARROW:extension:metadata": ""}
_SETTINGS: Final = {
    "allow_community_extensions": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "enable_external_access": "false",  # no files, no attached databases, no network
    "lock_configuration": "true",
    "python_enable_replacements": "false",  # a name in a query is a view, never a variable of Python's
    "temp_directory": "",
}

Columns = dict[str, tuple[pa.Field, Callable[[arrow.Items], pa.Array]]]


def _columns(*columns: tuple[str, Any, Callable[[Any], Any], dict[str, str] | None]) -> Columns:
    return {name: (pa.field(name, type, metadata=about), make) for name, type, make, about in columns}


_EVENTS: Final = _columns(
    ("position", pa.int64(), arrow.positions, None),
    ("stream", pa.string(), arrow.streams, None),
    ("version", pa.int64(), arrow.versions, None),
    ("id", pa.binary(16), arrow.ids, _UUID),
    ("type", pa.string(), arrow.types, None),
    ("time", arrow.TIME, arrow.times, None),
    ("data", pa.string(), arrow.json_contents, _JSON),
    ("metadata", pa.string(), arrow.metadatas, _JSON),
    ("tags", pa.list_(pa.string()), arrow.tag_lists, None),
    ("category", pa.string(), arrow.categories, None),
    ("content_type", pa.string(), arrow.content_types, None),
    ("raw", pa.binary(), arrow.raws, None),
    ("redacted", pa.bool_(), arrow.redacted, None),
)
_STREAMS: Final = _columns(
    ("stream", pa.string(), lambda items: pa.array(items[0], pa.string()), None),
    ("category", pa.string(), lambda items: pa.array(list(map(category_of, items[0])), pa.string()), None),
    ("events", pa.int64(), lambda items: pa.array(items[1], pa.int64()), None),
    ("first_version", pa.int64(), lambda items: pa.array(items[2], pa.int64()), None),
    ("last_version", pa.int64(), lambda items: pa.array(items[3], pa.int64()), None),
    ("last_time", arrow.TIME, lambda items: pa.array(items[4], pa.int64()).cast(arrow.TIME), None),
)


class InvalidQuery(InvalidArgument):
    """DuckDB refuses a query, or it fails at a value."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "see `evlog help sql`")
        self.reason = reason


class Result(NamedTuple):
    """What a query gives."""

    names: list[str]
    """of the columns; none if the statement was not a query"""
    types: list[str]
    """as DuckDB calls them"""
    batches: Iterable[Any]
    """`pyarrow.RecordBatch`, made while they are iterated over, which raises as `query` does"""


class Database:
    """A database of DuckDB with the views of a store. A context manager that closes it, not the store.

    Attributes:
        connection: DuckDB's own, for what `query` does not offer.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._head = store.head
        self._failed: list[EvlogError] = []  # a thread of DuckDB adds to it; read once the query has failed
        self.connection = duckdb.connect(":memory:", config=dict(_SETTINGS))
        newest_first = partial(self._read, reverse=True)
        self.connection.register("events", _Source(_EVENTS, self._read, self._failed))
        self.connection.register(NEWEST_FIRST, _Source(_EVENTS, newest_first, self._failed))
        self.connection.register("streams", _Source(_STREAMS, self._list, self._failed, ("category",)))
        self._views: dict[str, str | None] = {"events": None, "streams": None}  # the type of each
        self._has_changed = False  # a statement may have replaced a view

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; a query under way ends."""
        self.connection.close()

    def query(self, sql: str) -> Result:
        """Run a query, or several with `;` between them, and return the last one's result.

        Raises:
            InvalidQuery: DuckDB refuses it.
            What reading the store raises.
        """
        with self._own_errors():
            statements = self.connection.extract_statements(sql)
            if not statements:
                raise InvalidQuery("there is no query")
            for statement in statements:
                self._add_types(statement.query)
                relation = self.connection.sql(statement.query)
                self._has_changed |= statement.type != duckdb.StatementType.SELECT
                relation = self._sooner(statement.query, relation)
            if relation is None:
                return Result([], [], [])
            reader = relation.to_arrow_reader(_BATCH)
            return Result(relation.columns, list(map(str, relation.types)), self._batches(reader))

    def _sooner(self, sql: str, relation: Any) -> Any:
        """Return a relation that gives the same result faster if there is one, else the statement's own."""
        try:
            new = None if self._has_changed else rewritten(self.connection, sql, self._views)
            found = relation if new is None else self.connection.sql(new)
        except duckdb.Error:
            return relation
        is_same = found is relation or (found.columns, found.types) == (relation.columns, relation.types)
        return found if is_same else relation

    def _batches(self, reader: Any) -> Iterator[Any]:
        while True:
            with self._own_errors():
                batch = next(reader, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Raise the errors of DuckDB, and those of the store that DuckDB has seen, as evlog's own."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if self._failed:
                raise self._failed[0] from None
            if isinstance(error, duckdb.InterruptException):
                raise KeyboardInterrupt from None
            raise InvalidQuery(_reason(error)) from None

    def _add_types(self, sql: str) -> None:
        """Make a view of each event type that a statement names, as a table or otherwise.

        DuckDB tells the names of its tables only if it finds all of them.
        """
        for name in _words(sql):
            former = self._views.get(name.casefold(), "")
            if former in (None, name) or maybe_name_fault(name) is not None:
                continue
            if next(self._store.read_all(to=self._head, types=[name], limit=1), None) is None:
                continue
            if former:
                raise InvalidQuery(
                    f"the types {former} and {name} would be one table; select from events by type"
                )
            quoted, text = name.replace('"', '""'), name.replace("'", "''")
            self.connection.execute(f"create view \"{quoted}\" as from events where type = '{text}'")
            self._views[name.casefold()] = name

    def _read(self, bounds: Bounds, *, reverse: bool = False) -> Iterator[Sequence[Record]]:
        """Yield the events within bounds in batches, by position."""
        after = max(0, (bounds.first or 1) - 1)
        to = self._head if bounds.last is None else min(bounds.last, self._head)
        if after >= to:
            return
        until_us = None if bounds.last_us is None else bounds.last_us + 1
        filter = EventFilter(
            types=_possible(bounds.type),
            since_us=bounds.first_us if bounds.first_us is not None and bounds.first_us > 0 else None,
            until_us=until_us if until_us is not None and until_us <= MAX_TIME_US else None,
        )
        filters: Iterable[EventFilter] = [filter]
        if bounds.stream is not None:
            names, categories = _possible(bounds.stream) or (), bounds.category
            filters = [
                filter.replace(stream=name)
                for name in names
                if categories is None or category_of(name) in categories
            ]
        elif bounds.category is not None:
            filters = [filter.replace(category=name) for name in _categories(bounds.category)]
        if filter.types == ():
            return
        selections = [LogSelection(after, to, each, reverse=reverse) for each in filters]
        found = [self._store.engine.read_all(each) for each in selections]
        events = found[0] if len(found) == 1 else merge(*found, key=itemgetter(0), reverse=reverse)
        yield from in_batches(events, _BATCH)

    def _list(self, bounds: Bounds) -> Iterator[list[StreamInfo]]:
        categories: Iterable[str | None] = [None]
        if bounds.category is not None:
            categories = _categories(bounds.category)
        for category in categories:
            streams = self._store.streams(category)
            while batch := list(islice(streams, _BATCH)):
                yield batch


class _Source(ds.Dataset):  # type: ignore[misc]  # DuckDB offers conditions only to this class
    """What a view is made from: rows that are read when DuckDB asks for them."""

    def __init__(
        self,
        columns: Columns,
        read: Callable[[Bounds], Iterator[Sequence[Any]]],
        failed: list[EvlogError],
        applied: Collection[str] = Bounds._fields,
    ) -> None:
        self._columns = columns
        self._read = read
        self._failed = failed
        self._applied = applied  # the bounds that `read` applies; it may return rows outside other bounds

    @property
    def schema(self) -> Any:
        """The columns that there are."""
        return pa.schema([field for field, _ in self._columns.values()])

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> _Scan:
        """Return a scan, as DuckDB calls it for each part of a query that reads the view."""
        names = list(self._columns) if columns is None else columns
        return _Scan(self._columns, names, filter, self._batches, self._applied)

    def _batches(self, bounds: Bounds) -> Iterator[arrow.Items]:
        try:
            yield from map(arrow.Picked, self._read(bounds))
        except EvlogError as error:  # DuckDB would make an error of its own of it
            self._failed.append(error)
            raise


class _Scan:
    """One scan. `to_reader` is what DuckDB needs of a scanner of pyarrow."""

    def __init__(
        self,
        columns: Columns,
        names: Sequence[str],
        filter: Any,
        read: Callable[[Bounds], Iterator[arrow.Items]],
        applied: Collection[str],
    ) -> None:
        self._columns = columns
        self._applied = applied
        self._names = names
        self._filter = filter
        self._read = read

    def to_reader(self) -> Any:
        """Return the batches that DuckDB reads."""
        schema = pa.schema([self._columns[name][0] for name in self._names])
        return pa.RecordBatchReader.from_batches(schema, self._made(schema))

    def _unfiltered(self, bounds: Bounds, schema: Any) -> Iterator[Any]:
        for items in self._read(bounds):
            yield pa.record_batch([self._columns[name][1](items) for name in self._names], schema=schema)

    def _made(self, schema: Any) -> Iterator[Any]:
        if self._filter is None:
            yield from self._unfiltered(Bounds(), schema)
            return
        bounds, names = Bounds(), list(self._columns)
        if is_plain(self._filter):
            text = str(self._filter)
            bounds, is_exact = bounds_of(text)
            if is_exact and all(
                bound is None or name in self._applied for name, bound in bounds._asdict().items()
            ):
                yield from self._unfiltered(bounds, schema)
                return
            needed = words_of(text).union(self._names)
            names = [name for name in names if name in needed]
        for items in self._read(bounds):
            found = [self._columns[name][1](items) for name in names]
            table = pa.table(found, schema=pa.schema([self._columns[name][0] for name in names]))
            yield from table.filter(self._filter).select(self._names).combine_chunks().to_batches()


def _words(sql: str) -> list[str]:
    """Return the names in a statement, each once."""
    raw = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [*(at for at, _ in tokens[1:]), len(raw)]
    found = []
    for (at, kind), end in zip(tokens, ends, strict=True):
        if kind in {duckdb.token_type.identifier, duckdb.token_type.keyword}:
            word = raw[at:end].decode().strip()
            found.append(word[1:-1].replace('""', '"') if word[:1] == '"' else word)
    return list(dict.fromkeys(found))


def _possible(names: frozenset[str] | None) -> list[str] | None:
    """Return the names that streams or types of users can have; None for all."""
    if names is None:
        return None
    return sorted(
        name for name in names if maybe_name_fault(name) is None and not name.startswith(SYSTEM_PREFIX)
    )


def _categories(names: frozenset[str]) -> list[str]:
    """Return the names that categories can have: that of the stream `-1` is empty."""
    return [name for name in sorted(names) if "-" not in name and _possible(frozenset({f"{name}-"}))]


def _reason(error: Exception) -> str:
    """Return what DuckDB says, without its drawing of the place."""
    lines = [line.strip() for line in str(error).split("\n") if line[:1].isalnum()]
    return " ".join(line for line in lines if not line.startswith("LINE ")) or str(error)
