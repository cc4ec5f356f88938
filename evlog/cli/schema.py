"""`evlog schema`: the JSON Schemas that the data of event types has to fit."""

from __future__ import annotations

import os

from evlog.cli._support import console, options
from evlog.cli._support.listing import print_rows
from evlog.cli._support.parameters import (
    COUNT,
    LISTED_FIELDS,
    LISTING,
    PATH,
    STORE,
    Subcommand,
    argument,
    option,
)
from evlog.errors import InvalidArgument
from evlog.model.json_lines import encode_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    import evlog
    from evlog.cli._support.parameters import Given

HELP: Final = """Set the JSON Schema that the data of an event type has to fit; list, show and remove schemas.

`evlog append` refuses data that does not fit with exit code 2, and names the place in it. Events that are
there already are not checked. A schema is kept in the store; each new one is a version, and earlier versions
can be shown. Without ACTION the schemas are listed.

\b
  echo '{"required":["amount"]}' | evlog schema set OrderPaid -
  evlog schema
  evlog schema show OrderPaid --version 1
"""

MAX_SCHEMA_BYTES: Final = 8 * 1024 * 1024
_FIELDS: Final = ("type", "version", "position", "time")
_TYPE: Final = argument("TYPE", "The event type.", required=True)


def _list(given: Given) -> None:
    with options.open_store(given) as store:
        found = store.schemas()
    print_rows(
        given,
        map(_row, found),
        _FIELDS,
        known=_FIELDS,
        nothing="no type has a schema; `evlog schema set TYPE FILE` sets one",
    )


def _show(given: Given) -> None:
    with options.open_store(given) as store:
        schema = store.schema(given.type, given.version)
    text = schema.text
    if console.stdout_is_terminal():
        import json

        lines = json.dumps(schema.schema, indent=2, ensure_ascii=False).split("\n")
        text = "\n".join(map(console.printable, lines)).encode(errors="backslashreplace")
    console.write(text + b"\n")


def _set(given: Given) -> None:
    text = _read(given.file)
    with options.open_store(given) as store:
        row = _row(store.set_schema(given.type, text))
    line = f"data of {given.type!r} is checked against version {row['version']}"
    as_object = row | {"time": encode_time(row["time"]).decode()}
    console.write_result(as_object, line, done="the schema is set")


def _remove(given: Given) -> None:
    with options.open_store(given) as store:
        store.remove_schema(given.type)
    if console.stderr_is_terminal():
        console.note(f"data of {given.type!r} is no longer checked")


def _read(path: str) -> bytes:
    """Return a file's content, or stdin's for -."""
    from evlog.cli._support.stdin import BYTE_ORDER_MARK, read_all, stdin_descriptor

    try:
        if path == "-":
            text = read_all(stdin_descriptor(), MAX_SCHEMA_BYTES + 1)
        else:
            with open(os.fsencode(path), "rb") as file:
                text = file.read(MAX_SCHEMA_BYTES + 1)
    except InvalidArgument:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgument(f"cannot read {path!r} ({reason})", "give the path of a file, or -") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidArgument("the schema is too long", f"use at most {MAX_SCHEMA_BYTES} bytes")
    return text.removeprefix(BYTE_ORDER_MARK).strip()


def _row(schema: evlog.Schema) -> dict[str, Any]:
    return {
        "type": schema.type,
        "version": schema.version,
        "position": schema.position,
        "time": schema.time_us,
    }


SUBCOMMANDS: Final = {
    "list": Subcommand(
        """List the types that have a schema, each with its version.

\b
  evlog schema list
""",
        (LISTING, LISTED_FIELDS, STORE),
        _list,
    ),
    "show": Subcommand(
        """Print the schema of a type, as it was given.

\b
  evlog schema show OrderPaid
  evlog schema show OrderPaid --version 1
""",
        (_TYPE, option("--version", "N", "An earlier one, also if it is removed.", COUNT, least=1), STORE),
        _show,
    ),
    "set": Subcommand(
        """Set the schema of a type; appends that begin later are checked against it.

The schema must not refer to anything outside itself ($defs are in it). The same schema again changes nothing.

\b
  evlog schema set OrderPaid paid.schema.json
  echo '{"required":["amount"]}' | evlog schema set OrderPaid -
""",
        (_TYPE, argument("FILE", "A JSON Schema; - for stdin.", PATH, required=True), STORE),
        _set,
    ),
    "remove": Subcommand(
        """Check a type no longer. The versions of its schema are kept.

\b
  evlog schema remove OrderPaid
""",
        (_TYPE, STORE),
        _remove,
    ),
}
DEFAULT: Final = "list"
