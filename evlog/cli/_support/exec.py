"""`--exec`: run a shell command on each event, and decide what a failure means.

The event's JSON is the command's stdin, its most used fields are in the environment, and exit code 0
acknowledges the event. Names in the environment are UTF-8 in every locale, as they are in the JSON.
"""

from __future__ import annotations

import os
import signal

from evlog.cli._support import console
from evlog.cli._support.child import Child, NoTerminal, OutputTooLong, TookTooLong
from evlog.cli._support.stops import reader_has_left
from evlog.errors import EvlogError, InvalidArgument
from evlog.model.events import id_text
from evlog.model.json_lines import encode_lines
from evlog.subscriptions.retry import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final

    import evlog
    from evlog.cli._support.stops import Stops
    from evlog.model.events import Event

# A shell's exit codes for a command that it found but could not run, and for one that it did not find.
_CANNOT_RUN: Final = {126: "exit code 126: cannot be run", 127: "exit code 127: command not found"}


class CommandFailed(EvlogError):
    """The command did not end with exit code 0.

    Attributes:
        reason: how it ended.
        output: the end of what it wrote to stderr, if that was kept.
        can_run: False if it would fail on every event: it cannot be started, or needs a terminal.
    """

    def __init__(self, reason: str, output: str = "", *, can_run: bool = True) -> None:
        super().__init__(f"{reason}: {output}" if output else reason)
        self.reason = reason
        self.output = output
        self.can_run = can_run


class ExecFailed(EvlogError):
    """The command failed on an event as often as it may, and the event is not parked."""

    def __init__(self, event: Event, error: CommandFailed, failures: int, *, reader_left: bool) -> None:
        often = "" if failures == 1 else f" {failures} times"
        after = ", after the reader of stdout had left" if reader_left else ""
        advice = "fix the command and run again"
        if error.can_run and not reader_left:
            advice += ", or use --on-failure park"
        super().__init__(
            f"--exec failed{often} at position {event.position} ({event.type} in {event.stream!r}): "
            f"{error.reason}{after}; {advice}"
        )
        self.position = event.position
        self.stream = event.stream
        self.type = event.type
        self.reason = error.reason
        self.failures = failures


def check_command(command: str, effect: str = "which would acknowledge every event") -> None:
    """Refuse a command that does nothing.

    Raises:
        InvalidArgument: it is empty, as an unset variable is.
    """
    if not command.strip():
        raise InvalidArgument(f"--exec is empty, {effect}", "give a command")


class Command:
    """Runs a command on events.

    Args:
        command: what `sh -c` is given.
        store: what an `evlog` in the command finds in EVLOG_STORE; see `options.name_elsewhere`.
        stops: what may end it early.
        keeps_stderr: have the error of a failure hold the end of what the command wrote to stderr.
        timeout_seconds: how long it may take; then it is ended, and has failed.
    """

    def __init__(
        self,
        command: str,
        store: str,
        stops: Stops,
        *,
        keeps_stderr: bool,
        timeout_seconds: float | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._command = command
        self._stops = stops
        self._keeps_stderr = keeps_stderr
        self._environment = {**os.environb, b"EVLOG_STORE": os.fsencode(store)}

    def __call__(self, event: Event) -> None:
        """Run the command on the event and wait for its end.

        Raises:
            CommandFailed: its exit code is not 0, or it could not be started.
        """
        self.run(b"".join(encode_lines([event])), _variables(event))

    def run(
        self, data: bytes, variables: Mapping[bytes, bytes], *, max_output_bytes: int | None = None
    ) -> bytes:
        """Run the command with this stdin and more variables, and wait for its end.

        Args:
            max_output_bytes: return what it writes to stdout, at most this; None: that is evlog's own.

        Raises:
            CommandFailed: its exit code is not 0, it could not be started, or it wrote too much.
        """
        with self._stops.held:
            try:
                child = Child(
                    self._command,
                    {**self._environment, **variables},
                    keeps_stderr=self._keeps_stderr,
                    max_output_bytes=max_output_bytes,
                )
            except OSError as error:
                raise CommandFailed(f"not started: {error.strerror or error}", can_run=False) from None
            try:
                code = child.run(data, self._stops.let_through, self._timeout_seconds)
            except NoTerminal:
                raise CommandFailed(
                    "stopped, because it used the terminal while evlog runs in the background", can_run=False
                ) from None
            except TookTooLong:
                raise CommandFailed(
                    f"ended, because it took longer than {self._timeout_seconds:g} s", _text(child.kept)
                ) from None
            except OutputTooLong:
                raise CommandFailed(f"ended, because it wrote more than {max_output_bytes} bytes") from None
            finally:
                child.close()
        if code:
            raise CommandFailed(_reason(code), _text(child.kept), can_run=code not in _CANNOT_RUN)
        return bytes(child.output)


class Runner:
    """Delivers events to a command, and retries or parks those on which it fails.

    Args:
        command: what is run.
        stops: what must not interrupt the parking of an event.
        retries: how often the command may fail on one event.
        delay_seconds: between two tries; None: growing pauses.
        parks: park an event after the last failure; else the run ends there.
    """

    gathers = False
    undone = None

    def __init__(
        self,
        command: Command,
        subscription: evlog.Subscription,
        stops: Stops,
        retries: int,
        *,
        parks: bool,
        delay_seconds: float | None,
    ) -> None:
        self._delay_seconds = delay_seconds
        self._command = command
        self._subscription = subscription
        self._stops = stops
        self._retries = retries
        self._parks = parks

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        """Run the command on the event until it succeeds or has failed too often.

        Raises:
            ExecFailed: it has, and events are not parked, or it would fail in the same way on every event.
        """

        def on_retry(error: Exception, failures: int, pause_seconds: float) -> None:
            console.note(
                f"--exec failed at position {event.position}: {reason_of(error)}; "
                f"failure {failures} of {self._retries}, next try in {pause_seconds:g} s"
            )

        failure = attempt(self._command, event, self._retries, on_retry, delay_seconds=self._delay_seconds)
        if failure is None:
            return
        error = failure.error
        if not isinstance(error, CommandFailed):
            raise error
        reader_left = reader_has_left()
        if not self._parks or not error.can_run or reader_left:
            raise ExecFailed(event, error, failure.attempts, reader_left=reader_left)
        with self._stops.held:
            self._subscription.park(event, str(error), failure.attempts)
        failures = console.count_of(failure.attempts, "failure")
        console.note(f"parked position {event.position} after {failures}: {error.reason}")

    def flush(self) -> None:
        """Do nothing: no event is kept."""


def _text(output: bytearray) -> str:
    return output.decode(errors="replace").strip()


def reason_of(error: Exception) -> str:
    """Return how the command failed, without what it wrote to stderr: that was shown already."""
    return error.reason if isinstance(error, CommandFailed) else str(error)


def _variables(event: Event) -> dict[bytes, bytes]:
    id = id_text(event.id_bytes)
    correlation_id = (event.correlation_id or "").replace("\0", "") or id  # a variable holds no NUL
    return {
        b"EVLOG_POSITION": b"%d" % event.position,
        b"EVLOG_STREAM": event.stream.encode(),
        b"EVLOG_TYPE": event.type.encode(),
        b"EVLOG_VERSION": b"%d" % event.version,
        b"EVLOG_ID": id.encode(),
        b"EVLOG_CORRELATION_ID": correlation_id.encode(errors="replace"),
        b"EVLOG_CAUSATION_ID": id.encode(),
    }


def _reason(code: int) -> str:
    if code > 0:
        return _CANNOT_RUN.get(code, f"exit code {code}")
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
