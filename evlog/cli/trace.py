"""`evlog trace`: the story of an event, as a tree on a terminal."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import STORE, choice
from evlog.cli.show import EVENT, parse_event
from evlog.model.events import id_text
from evlog.model.json_lines import encode_lines, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from evlog.cli._support.parameters import Given
    from evlog.state.trace import TracedEvent

HELP: Final = """Print the story of an event: what caused it, what it caused, and all with its correlation id.

On a terminal as a tree: each event is below its cause. In a pipe by position, a line of JSON each, with
"depth" in the tree and "caused_by", the id of the cause.

`evlog append` links events by --correlation-id and --causation-id; in a command of --exec it does so by
itself.

\b
  evlog trace 1
  evlog trace 1 -o tree
  evlog trace 1 | wc -l
"""

PARAMETERS: Final = (
    EVENT,
    choice("--output -o", "json|tree", "The form; tree on a terminal, else json."),
    STORE,
)
_COLUMNS: Final = ("event", "position", "stream", "time", "data")
_MOST_INDENT: Final = 300  # 100 levels; without a bound a chain of 10,000 events took 480 MB


def command(given: Given) -> None:
    """Print the story."""
    name = parse_event(given.id)
    with options.open_store(given) as store:
        traced = store.trace(name)
    form = options.form_of(given, "tree")
    if form == "json":
        console.write(b"".join(map(_as_line, traced)))
        return
    from evlog.cli._support.clock import readable_time
    from evlog.cli._support.fields import content
    from evlog.cli._support.table import MEDIUM, draw_table

    rows = [
        (
            branch + each.event.type,
            str(each.event.position),
            each.event.stream,
            readable_time(each.event.time_us),
            content(each.event[6], each.event.data).decode(errors="backslashreplace"),
        )
        for branch, each in _as_tree(traced)
    ]
    for part in draw_table(_COLUMNS, rows, least_columns={"time": MEDIUM}):
        console.write(part)


def _as_line(each: TracedEvent) -> bytes:
    (line,) = encode_lines([each.event])
    cause = b"null" if each.caused_by is None else quote(each.caused_by)
    return b'%b,"depth":%d,"caused_by":%b}\n' % (line[:-2], each.depth, cause)


def _as_tree(traced: Sequence[TracedEvent]) -> Iterator[tuple[str, TracedEvent]]:
    """Iterate over the events, each below its cause, with the branches before its name."""
    below: dict[str | None, list[TracedEvent]] = {}
    for each in traced:
        below.setdefault(each.caused_by if each.depth else None, []).append(each)
    # An explicit stack: a story may be deeper than Python's recursion limit.
    waiting = [("", each) for each in reversed(below.get(None, []))]
    while waiting:
        branch, each = waiting.pop()
        yield branch, each
        effects = below.get(id_text(each.event.id_bytes), [])
        indent = branch.replace("├─ ", "│  ").replace("└─ ", "   ")[-_MOST_INDENT:]
        waiting += reversed(
            [(indent + ("└─ " if effect is effects[-1] else "├─ "), effect) for effect in effects]
        )
