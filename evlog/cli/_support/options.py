"""What several commands share: finding the store, opening it, and telling what was cut or appended."""

from __future__ import annotations

import os

from evlog.cli._support import console
from evlog.cli._support.parameters import maybe_number
from evlog.errors import EvlogError, InvalidArgument, NotAStore, StoreAccessDenied, StoreNotFound
from evlog.model.events import SYSTEM_PREFIX, check_stream_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Final

    import evlog
    from evlog.cli._support.parameters import Given
    from evlog.model.appends import BatchResult

DEFAULT_STORE: Final = ".evlog"
LINES_BATCH: Final = 1000  # events of a write by `append --lines`
_MAX_URL_BYTES: Final = 4096
_LONGEST_WAIT_SECONDS: Final = 1e8
_EXPECTED: Final[dict[str, int | str]] = {"any": "any", "none": 0, "exists": "exists"}


class ForeignStore(StoreAccessDenied):
    """The nearest `.evlog` belongs to another user, who may have made it to collect the events of others."""

    def __init__(self, path: str, owner: int) -> None:
        EvlogError.__init__(
            self,
            f"{path} belongs to another user (id {owner})",
            "to use it, name it with --store or EVLOG_STORE",
        )
        self.path = path
        self.reason = "it belongs to another user"
        self.owner = owner


def named_store(given: Given) -> str | None:
    """Return the store that --store or EVLOG_STORE names."""
    path: str | None = given.store
    if path is not None:
        if not path:
            raise InvalidArgument("--store is empty", "give the path of a directory, or a URL")
        return path
    return os.environ.get("EVLOG_STORE") or None


def find_store(given: Given) -> str:
    """Return the store to use: the one that is named, else the nearest `.evlog`, else `.evlog` here.

    A `.evlog` that is a file holds the URL of the store.

    Raises:
        ForeignStore: the nearest one is another user's. A named one may be: its user has decided.
        StoreNotFound: the path is relative, and the current directory was removed.
    """
    path = named_store(given)
    if path is None:
        return _nearest_store(_current_directory(DEFAULT_STORE)) or DEFAULT_STORE
    if not os.path.isabs(path) and not is_url(path):
        _current_directory(path)
    return path


def new_store(given: Given) -> str:
    """Return the store that `init` creates: the one that is named, else `.evlog` here, or the URL in it."""
    if named_store(given) is not None:
        return find_store(given)
    if os.path.lexists(DEFAULT_STORE):
        _check_owner(DEFAULT_STORE)
    return url_in(DEFAULT_STORE) if os.path.isfile(DEFAULT_STORE) else DEFAULT_STORE


def is_url(path: str) -> bool:
    """Return whether a store is named by its URL, not by a path."""
    if "://" not in path:
        return False
    from evlog.engine import scheme_of

    return scheme_of(path) is not None


def printed_name(path: str, store: evlog.EventStore) -> str:
    """Return the name of a store as it was given, but a URL without its password."""
    return store.path if is_url(path) else path


def name_elsewhere(path: str, store: evlog.EventStore) -> str:
    """Return the name of a store for another process: its absolute path, or its URL as it was given."""
    return path if is_url(path) else store.path


def _current_directory(path: str) -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise StoreNotFound(f"{path}, as the current directory was removed") from None


def _nearest_store(folder: str) -> str | None:
    """Return the nearest `.evlog` from a folder upwards: a directory, or the URL that a file holds."""
    path = DEFAULT_STORE
    while not (os.path.isdir(path) or os.path.isfile(path)):
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
        path = os.path.join(folder, DEFAULT_STORE)
    _check_owner(path)
    return path if os.path.isdir(path) else url_in(path)


def url_in(path: str) -> str:
    """Return the URL that a `.evlog` file holds."""
    with open(path, "rb") as file:
        text = file.read(_MAX_URL_BYTES).decode(errors="replace").strip()
    if not is_url(text) or not text.isprintable():
        raise NotAStore(path, "it is a file, and does not hold the URL of a store")
    return text


def _check_owner(path: str) -> None:
    """Raise ForeignStore if the path, or what a link there leads to, is another user's."""
    owners = [os.lstat(path).st_uid]
    if os.path.exists(path):
        owners.append(os.stat(path).st_uid)
    for owner in owners:
        if owner != os.geteuid():
            raise ForeignStore(path, owner)


def open_store(given: Given) -> evlog.EventStore:
    """Open the store of a command that creates none.

    Raises:
        StoreNotFound: there is none.
    """
    from evlog.store import open

    return open(find_store(given))


def open_or_create(given: Given) -> evlog.EventStore:
    """Open the store to append to; create a missing one and say so, unless --no-create is given."""
    from evlog.store import open

    path = find_store(given)
    store = open(
        path,
        create=not given.no_create,
        sync=given.sync or "always",
        lock_timeout=_timeout(given.lock_timeout),
    )
    if store.created:
        name = printed_name(path, store)
        console.note(f"created the store {f'./{name}' if path == DEFAULT_STORE else name}")
    return store


def _timeout(seconds: float | None) -> float | None:
    return seconds if seconds is not None and seconds < _LONGEST_WAIT_SECONDS else None


def check_streams(given: Given) -> None:
    """Refuse STREAM beside --category, and a name that no stream can have."""
    if given.stream is not None and given.category is not None:
        raise InvalidArgument("STREAM and --category both say which streams", "give one of them")
    if given.stream is not None and not given.stream.startswith(SYSTEM_PREFIX):
        check_stream_name(given.stream)


def form_of(given: Given, for_people: str = "table") -> str:
    """Return the form that --output names; else one for people on a terminal, and JSON in a pipe."""
    return given.output or (for_people if console.stdout_is_terminal() else "json")


def fields_of(given: Given, known: Sequence[str] | None = None) -> list[str] | None:
    """Return the names that --fields gives; None if it is left out.

    Args:
        known: the names that are allowed; None: those of an event.
    """
    if given.fields is None:
        return None
    if given.output == "data":
        raise InvalidArgument("-o data prints the data alone", "leave --fields out, or use -o csv")
    from evlog.cli._support.fields import parse_fields

    return parse_fields(given.fields, known)


def pairs_of(meta: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each --meta."""
    for pair in meta:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise InvalidArgument(f"--meta {pair!r} is not KEY=VALUE", "write for example --meta user=ann")
        yield key, value


def content_of(given: Given) -> dict[str, Any]:
    """Return what --correlation, --meta and --grep select, as arguments of the library."""
    selected: dict[str, Any] = {}
    if given.correlation is not None:
        selected["correlation"] = given.correlation
    if given.meta:
        selected["metadata"] = {}
        for key, value in pairs_of(given.meta):
            if selected["metadata"].setdefault(key, value) != value:
                raise InvalidArgument(f"--meta asks for two values of {key!r}", "give one of them")
    if given.grep:
        selected["grep"] = given.grep
    return selected


def report_torn_tails(store: evlog.EventStore) -> None:
    """Report on stderr what was cut off the end of the log, if a crash had left an append unfinished."""
    for tail in store.torn_tails:
        console.note(
            f"cut {tail.cut_bytes} bytes off the end of {tail.path}: an append that a crash left unfinished"
        )


def print_results(result: BatchResult, numbers: Sequence[int] = ()) -> None:
    """Print where each event of an append is, and for lines the number of each."""
    from evlog.model.json_lines import encode_results

    columns = result.streams, result.versions, result.positions, result.ids, result.duplicates
    if not console.stdout_is_terminal():
        lines = encode_results(*columns)
        if numbers:
            each = zip(lines.split(b"\n"), numbers, strict=False)
            lines = b"".join(b'%b,"line":%d}\n' % (line[:-1], number) for line, number in each)
        console.write_now(lines)
        return
    shown = [
        f"{'known already in' if known else 'appended to'} {stream}: version {version}, position {position}\n"
        for stream, version, position, _, known in zip(*columns, strict=True)
    ]
    if numbers:
        shown = [f"line {number}: {text}" for text, number in zip(shown, numbers, strict=True)]
    console.write_now("".join(shown).encode())


def parse_version(text: str, option: str) -> int | str:
    """Return what the library takes for an option's text: any, none, exists or a version."""
    if text in _EXPECTED:
        return _EXPECTED[text]
    version = maybe_number(text)
    if version is None:
        raise InvalidArgument(
            f"invalid value {text!r} for {option}", "use any, none, exists or a version such as 3"
        )
    return version
