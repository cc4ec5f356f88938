"""`evlog transact`: let a command decide what to append, again if another writer was first."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.event import metadata_of_environment
from evlog.cli._support.parameters import BOUND, STORE, argument, option
from evlog.errors import EvlogError, InvalidArgument, WrongExpectedVersion
from evlog.model.events import check_stream_name, id_of_key
from evlog.model.json_lines import MAX_LINE_BYTES, InvalidLine, encode_lines, own_decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    import evlog
    from evlog.cli._support.exec import Command
    from evlog.cli._support.parameters import Given
    from evlog.model.appends import BatchResult
    from evlog.model.events import EncodedEvent, Event
    from evlog.model.json_lines import Decode

HELP: Final = """Read a stream, have a command decide, and append what it decided.

The command gets the stream's events on stdin, a line of JSON each, and prints new ones, for example
{"type":"Withdrawn","data":{"amount":5}}; "stream" and "id" may be left out. They are appended as one, on
condition that the stream is still as it was read. If another writer was first, the command is run again on
the longer history. So it must not do anything that cannot be done twice.

No output: nothing is appended, exit code 0. A command that fails: nothing is appended, exit code 1. With
--idempotency-key the decision is made once, also across crashes: the n-th event's key is TEXT/n.

\b
  evlog transact t-1 --exec 'echo "{\\"type\\":\\"Done\\"}"' --idempotency-key t-1
  evlog transact seat-7 --exec 'grep -q Taken || echo "{\\"type\\":\\"Taken\\"}"'
"""

RETRIES: Final = 10
MAX_OUTPUT_BYTES: Final = MAX_LINE_BYTES
PARAMETERS: Final = (
    argument("STREAM", "What the decision is made from.", required=True),
    option("--exec", "COMMAND", "Decides: events on stdin, new events on stdout.", name="exec"),
    option("--retries", "N", f"How often a lost race is decided again; default {RETRIES}.", BOUND),
    option("--idempotency-key", "TEXT", "Any text that names this decision."),
    STORE,
)


class DecisionFailed(EvlogError):
    """The command did not decide: it failed, and nothing was appended."""

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(f"--exec failed on {stream!r}: {reason}", "nothing was appended")
        self.stream = stream
        self.reason = reason


class BadDecision(InvalidArgument):
    """The command printed a line that holds no event; nothing was appended."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line} of what --exec printed {reason}", "nothing was appended")
        self.line = line
        self.reason = reason


class RaceLost(WrongExpectedVersion):
    """Other writers were first each time; nothing was appended."""

    def __init__(self, error: WrongExpectedVersion, tries: int) -> None:
        EvlogError.__init__(
            self,
            f"other writers of {error.stream!r} were first in {tries} of {tries} tries",
            "run it again, or increase --retries",
        )
        self.stream = error.stream
        self.expected = error.expected
        self.actual = error.actual
        self.tries = tries


def command(given: Given) -> None:
    """Decide, append, and print the results."""
    from evlog.cli._support.exec import Command, check_command
    from evlog.cli._support.stops import Stopped, Stops, end_by

    stream = check_stream_name(given.stream)
    if given.exec is None:
        raise InvalidArgument("--exec is missing", "give the command that decides")
    check_command(given.exec, "which decides nothing")
    key: str | None = given.idempotency_key
    if key is not None:
        id_of_key(key)  # raises if the text cannot be a key, before anything is opened
    metadata = metadata_of_environment()
    path = options.find_store(given)
    result = None
    try:
        with Stops(watch_reader=False) as stops, options.open_store(given) as store:
            runs = Command(given.exec, options.name_elsewhere(path, store), stops, keeps_stderr=False)
            result = _decide(store, given, runs, own_decoder(stream, metadata, any_stream=True))
            options.report_torn_tails(store)
    except Stopped as stopped:
        if result is None:
            end_by(stopped)
    if result is None:
        if console.stderr_is_terminal():
            console.note("nothing was decided")
    else:
        console.set_done("the decision is appended")
        options.print_results(result)


def _decide(store: evlog.EventStore, given: Given, runs: Command, decode: Decode) -> BatchResult | None:
    from evlog.cli._support.exec import CommandFailed
    from evlog.decisions.transact import transact

    def decide(history: list[Event], version: int) -> tuple[list[str], list[EncodedEvent]]:
        variables = {b"EVLOG_STREAM": given.stream.encode(), b"EVLOG_VERSION": b"%d" % version}
        lines = b"".join(encode_lines(history))
        return _parse(runs.run(lines, variables, max_output_bytes=MAX_OUTPUT_BYTES), decode)

    retries = RETRIES if given.retries is None else given.retries
    try:
        return transact(store, given.stream, decide, retries=retries, key=given.idempotency_key)
    except CommandFailed as error:
        raise DecisionFailed(given.stream, error.reason) from None
    except WrongExpectedVersion as error:
        raise RaceLost(error, retries + 1) from None


def _parse(output: bytes, decode: Decode) -> tuple[list[str], list[EncodedEvent]]:
    """Return the streams and events that the lines hold."""
    streams: list[str] = []
    events: list[EncodedEvent] = []
    for number, line in enumerate(output.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            stream, event = decode(line)
        except InvalidLine as error:
            raise BadDecision(number, error.reason.partition(";")[0]) from None
        except InvalidArgument as error:
            raise BadDecision(number, f"holds no event: {error}") from None
        streams.append(stream)
        events.append(event)
    return streams, events
