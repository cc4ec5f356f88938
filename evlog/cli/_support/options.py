"""What several commands share: which store they use, how they open it, what recovery did."""

from __future__ import annotations

import os

from evlog.cli._support import console
from evlog.errors import EvlogError, InvalidArgument, StoreAccessDenied, StoreNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    import evlog
    from evlog.cli._support.parameters import Given

DEFAULT_STORE: Final = ".evlog"


class ForeignStore(StoreAccessDenied):
    """The nearest `.evlog` belongs to another user: it may be there to collect the events of others."""

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
            raise InvalidArgument("--store is empty", "give the path of a directory")
        return path
    return os.environ.get("EVLOG_STORE") or None


def find_store(given: Given) -> str:
    """Return the store to use: the one that is named, else the nearest `.evlog`, else `.evlog` here.

    Raises:
        ForeignStore: the nearest one is another user's. A named one may be: its user has decided.
        StoreNotFound: the path is relative, and the current directory was removed.
    """
    path = named_store(given)
    if path is None:
        return _nearest_store(_current_directory(DEFAULT_STORE)) or DEFAULT_STORE
    if not os.path.isabs(path):
        _current_directory(path)
    return path


def new_store(given: Given) -> str:
    """Return the path of the store that `init` creates: the one that is named, else `.evlog` here."""
    if named_store(given) is not None:
        return find_store(given)
    if os.path.lexists(DEFAULT_STORE):
        _check_owner(DEFAULT_STORE)
    return DEFAULT_STORE


def _current_directory(path: str) -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise StoreNotFound(f"{path}, as the current directory was removed") from None


def _nearest_store(folder: str) -> str | None:
    """Return the nearest `.evlog` directory, from a folder upwards."""
    path = DEFAULT_STORE
    while not os.path.isdir(path):
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
        path = os.path.join(folder, DEFAULT_STORE)
    _check_owner(path)
    return path


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


def report_torn_tails(store: evlog.EventStore) -> None:
    """Say on stderr what was cut off the end of the log, if a crash had left something there."""
    for tail in store.torn_tails:
        console.note(
            f"cut {tail.cut_bytes} bytes off the end of {tail.path}: an append that a crash left unfinished"
        )
