"""`evlog snapshots`: the states that `evlog state --snapshot` keeps."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.listing import filter_text, print_one, print_rows
from evlog.cli._support.parameters import LISTED_FIELDS, LISTING, STORE, Subcommand, argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    import evlog
    from evlog.cli._support.parameters import Given

HELP: Final = """List, show and delete the states that `evlog state --snapshot` keeps.

Without ACTION they are listed. A snapshot is derived from events: deleting one loses only the time to fold
them again.

\b
  evlog state --category order --snapshot orders
  evlog snapshots
  evlog snapshots show orders
  evlog snapshots delete orders
"""

_COLUMNS: Final = ("name", "stream", "selection", "events", "position", "saved_time", "fold")
_FIELDS: Final = (
    *("name", "stream", "selection", "position", "version", "events"),
    *("fold", "fold_version", "bytes", "saved_time", "damage"),
)
_NAME: Final = argument("NAME", "The snapshot.", required=True)
_STREAM: Final = argument("STREAM", "The stream whose state it is; left out, a selection's.")


def _list(given: Given) -> None:
    with options.open_store(given) as store:
        found = store.snapshots()
    print_rows(
        given,
        map(_row, found),
        _COLUMNS,
        known=_FIELDS,
        nothing="no snapshots; `evlog state --snapshot NAME` makes one",
        cells=_CELLS,
    )
    for info in found:
        if info.damage is not None:
            console.note(info.damage)


def _show(given: Given) -> None:
    from msgspec import Raw

    from evlog.model.json_text import make_decoder

    decode = make_decoder(lambda number: Raw(number.encode()))  # no number changes its digits
    with options.open_store(given) as store:
        info = store.snapshot(given.name, given.stream)
    row = _row(info) | {"state": decode(info.state.decode())}
    print_one(given, row, (*_FIELDS[:-1], "state"), cells=_CELLS)


def _delete(given: Given) -> None:
    with options.open_store(given) as store:
        store.delete_snapshot(given.name, given.stream)
    if console.stderr_is_terminal():
        console.note(f"snapshot {given.name!r} is deleted")


def _row(info: evlog.SnapshotInfo) -> dict[str, object]:
    row: dict[str, object] = {
        "name": info.name,
        "stream": info.stream,
        "selection": info.selection,
        "position": info.position,
        "version": info.version or None,
        "events": info.events,
        "fold": info.fold,
        "fold_version": info.fold_version,
        "bytes": len(info.state),
        "saved_time": info.saved_us,
    }
    return row if info.damage is None else row | {"damage": info.damage}


_CELLS: Final[dict[str, Callable[[Any], str]]] = {"selection": filter_text}
SUBCOMMANDS: Final = {
    "list": Subcommand(
        """List the snapshots: whose state each is, and up to where.

\b
  evlog snapshots list
  evlog snapshots list -o csv --fields name,stream,position,bytes
""",
        (LISTING, LISTED_FIELDS, STORE),
        _list,
    ),
    "show": Subcommand(
        """Show one snapshot with the state in it, as it was saved last. No event is read.

\b
  evlog snapshots show orders
  evlog snapshots show total order-42 --fields state
""",
        (_NAME, _STREAM, LISTING, LISTED_FIELDS, STORE),
        _show,
    ),
    "delete": Subcommand(
        """Delete a snapshot. No event is deleted; the next `evlog state` folds all of them again.

\b
  evlog snapshots delete orders
  evlog snapshots delete total order-42
""",
        (_NAME, _STREAM, STORE),
        _delete,
    ),
}
DEFAULT: Final = "list"
