"""`evlog state`: events folded into a state, by the default merge or by a command."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import COUNT, FILTER, STORE, WHEN, argument, choice, option
from evlog.errors import EvlogError, InvalidArgument
from evlog.model.json_lines import encode_lines, encode_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Final

    from evlog.cli._support.exec import Command
    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event
    from evlog.state.compute import Selection, State
    from evlog.state.fold import Fold
    from evlog.store import EventStore

HELP: Final = """Fold events into a state, and print it.

The events of STREAM, or of all streams, one after another. Without --exec their data are merged into one
object (JSON Merge Patch, RFC 7396): a later value replaces an earlier one, and null removes it. With --exec a
shell command folds: its stdin has the state so far as the first line (null at first), then events, a line of
JSON each; it prints the new state as one JSON value. It may be run several times, each time with the next
events.

With --snapshot the result is kept under a name, and the next run folds only what is new. A snapshot is
rebuilt by itself when the command, the options or the history are not those that it was made from. After a
change of a script that the command runs, delete it.

\b
  evlog state order-42
  evlog state order-42 --at 3 -o data
  evlog state --exec 'jq -n "reduce inputs.data.n as \\$n (input; . + \\$n)"'
  evlog state --type OrderPaid --exec ./sales.py --snapshot sales
"""

PARAMETERS: Final = (
    argument("STREAM", "One stream; all if left out."),
    *FILTER,
    option("--at", "N", "The state as of this version (or position).", COUNT),
    option("--until", "WHEN", "The state as of then.", WHEN),
    option("--exec", "COMMAND", "Folds: state and events on stdin, the state on stdout.", name="exec"),
    option("--snapshot", "NAME", "Keep the result; next time fold only what is new."),
    choice("--output -o", "json|pretty|data", "The form; data is the state alone."),
    STORE,
)
_PIECE_BYTES: Final = 4 << 20  # of events, for one run of a command
_MAX_STATE_BYTES: Final = 64 << 20
_NULL: Final = b"null"


class FoldFailed(EvlogError):
    """The command of --exec did not fold: it failed, or printed no state. Nothing was kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"--exec failed: {reason}", "no state was kept")
        self.reason = reason


class SnapshotNotSaved(EvlogError):
    """The state was printed, and not kept. The exit code is that of the reason."""

    def __init__(self, name: str, reason: EvlogError) -> None:
        super().__init__(f"the snapshot {name!r} was not saved: {reason}")
        self.name = name
        self.exit_code = reason.exit_code


def command(given: Given) -> None:
    """Check which options go together, fold, and print."""
    from evlog.model.filters import make_filter
    from evlog.state.compute import Selection

    options.check_streams(given)
    content = options.content_of(given)
    filter = make_filter(
        None, given.category, given.type or None, given.since, given.until, given.tag, **content
    )
    selection = Selection(given.stream, filter, at=given.at)
    with options.open_store(given) as store:
        if given.stream is not None and not store.has_stream(given.stream):
            from evlog.cli._support.advice import missing_stream

            raise missing_stream(store, given.stream, "evlog state")
        state, raw, keep = _fold(store, given, selection)
        unsaved = None
        try:
            keep()
        except EvlogError as error:
            unsaved = SnapshotNotSaved(given.snapshot, error)
            console.set_verdict(unsaved.exit_code)
    form = options.form_of(given, "pretty")
    if form == "data":
        console.write(raw + b"\n")
    elif form == "json":
        console.write(_as_line(state, raw, with_version=given.stream is not None))
    else:
        console.write(_as_paragraph(state, raw, given.stream))
    if unsaved is not None:
        raise unsaved


def _fold(store: EventStore, given: Given, selection: Selection) -> tuple[State, bytes, Callable[[], None]]:
    """Return the state, its value as JSON, and what keeps it in the snapshot."""
    from evlog.state.compute import compute

    if given.exec is None:
        from evlog.state.fold import MERGE

        state, keep = compute(store.engine, selection, MERGE, given.snapshot, None)
        return state, MERGE.encode(state.value), keep
    from evlog.cli._support.exec import Command, check_command
    from evlog.cli._support.stops import Stopped, Stops, end_by

    check_command(given.exec, "which folds nothing")
    path = options.find_store(given)
    try:
        with Stops(watch_reader=False) as stops:
            runs = Command(given.exec, options.name_elsewhere(path, store), stops, keeps_stderr=False)
            fold = _make_fold(given.exec, runs)
            state, keep = compute(store.engine, selection, fold, given.snapshot, None)
    except Stopped as stopped:
        end_by(stopped)
    return state, fold.encode(state.value), keep


def _make_fold(text: str, runs: Command) -> Fold:
    """Return the fold of a command, whose states are JSON as the command printed it."""
    from evlog.cli._support.exec import CommandFailed
    from evlog.model.encoding import check_json
    from evlog.state.fold import Fold

    class CommandFold(Fold):
        def __init__(self) -> None:
            super().__init__(lambda state, _: state, _NULL, name=f"exec: {text}")

        def run(self, state: bytes, events: Iterable[Event]) -> tuple[bytes, int, Event | None]:
            count, last = 0, None

            def counted() -> Iterator[Event]:
                nonlocal count, last
                for count, last in enumerate(events, 1):  # noqa: B007 - both are returned
                    yield last

            for piece in encode_lines(counted(), _PIECE_BYTES):
                try:
                    output = runs.run(state + b"\n" + piece, {}, max_output_bytes=_MAX_STATE_BYTES)
                except CommandFailed as error:
                    raise FoldFailed(error.reason) from None
                state = _parsed(output)
            return state, count, last

        def encode(self, state: bytes) -> bytes:
            return state

        def decode(self, raw: bytes) -> bytes:
            return raw

    def _parsed(output: bytes) -> bytes:
        output = output.strip()
        if not output:
            raise FoldFailed("it printed no state")
        try:
            check_json([output], "state")
        except InvalidArgument:
            raise FoldFailed("what it printed is not one JSON value") from None
        return output.translate(bytes.maketrans(b"\r\n", b"  "))

    return CommandFold()


def _as_line(state: State, raw: bytes, *, with_version: bool) -> bytes:
    version = b'"version":%d,' % state.version if with_version else b""
    time = b'"%b"' % encode_time(state.time_us) if state.events else _NULL
    numbers = (state.events, version, state.position, time)
    return b'{"state":%b,"events":%d,%b"position":%d,"time":%b}\n' % (raw, *numbers)


def _as_paragraph(state: State, raw: bytes, stream: str | None) -> bytes:
    """Return the state for people: where it comes from, then its JSON, indented."""
    from evlog.cli._support.clock import readable_time
    from evlog.cli._support.output import pretty_json

    parts = [console.count_of(state.events, "event"), f"position {state.position}"]
    if stream is not None:
        parts[:0] = [stream, f"version {state.version}"]
    if state.events:
        parts.append(readable_time(state.time_us, exact=True))
    lines = ["  ".join(parts), *(f"    {line}" for line in pretty_json(raw).split("\n")), ""]
    text = "\n".join(map(console.printable, lines))
    return console.Styled(text.encode(errors="backslashreplace"))
