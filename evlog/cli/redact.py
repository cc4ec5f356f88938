"""`evlog redact`: erase the content of single events."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import STORE, option
from evlog.cli.show import EVENTS, parse_event
from evlog.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given
    from evlog.model.redaction import RedactionResult

HELP: Final = """Erase the data, metadata and tags of events; all else of them stays.

Readers see no content from then on. In a directory `evlog compact` then removes the bytes from every file; on
a server they are removed at once. The reason is kept in the stream $redactions, with the positions and the
time. Exports that were made before are not changed. Mirrors follow, and a backup gets the redaction by the
next `evlog backup` into it. In a pipe the result is one JSON object.

\b
  evlog redact 17 --reason 'erasure request 881' && evlog compact
  evlog redact 019ac5d0-3b1c-7c3e-9a55-0123456789ab 18 --reason 'a password'
  evlog read '$redactions'
"""

PARAMETERS: Final = (
    EVENTS,
    option("--reason", "TEXT", "Why, in one line without personal data; required."),
    STORE,
)


def command(given: Given) -> None:
    """Redact, and print what was done and what is left to do."""
    if given.reason is None:
        raise InvalidArgument("--reason is missing", "say why, for example --reason 'erasure request 881'")
    events = [parse_event(text) for text in given.id]
    with options.open_store(given) as store:
        result = store.redact(*events, reason=given.reason)
    console.write_result(result._asdict(), *_lines(result), done="the events are redacted")
    if not result.erased:
        until = "" if result.redacted else " unless a compaction has run since"
        console.note(f"the content is still in files{until}: run `evlog compact` to remove it")
    console.note("copies made before still hold it: backups, exports, forks, parked errors")


def _lines(result: RedactionResult) -> list[str]:
    lines = []
    if result.redacted:
        lines.append(f"redacted: {_listed(result.redacted)}")
    if result.already:
        lines.append(f"redacted before: {_listed(result.already)}")
    if result.snapshots:
        lines.append(f"snapshots deleted: {', '.join(result.snapshots)}")
    return lines


def _listed(positions: tuple[int, ...]) -> str:
    return ", ".join(map(str, positions))
