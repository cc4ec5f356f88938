"""`--exec`: a shell command that is run on one event at a time.

The event's JSON is its stdin, what a script asks for most stands in its environment, and exit code 0 says
that the event is dealt with. The command leads a process group of its own: when evlog ends while it runs, all
of the group is asked to end, and what does not is killed: the next run must not meet it at work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Final

import evlog
from evlog.cli._support import console
from evlog.cli._support.stops import Stops
from evlog.errors import EvlogError
from evlog.model.events import Event
from evlog.model.json_lines import encode_lines
from evlog.subscriptions.retry import attempt

_SHELL: Final = "/bin/sh"
# What a command has for ending by itself once it is told to.
_GRACE_SECONDS: Final = 2.0
_LOOK_AGAIN_SECONDS: Final = 0.01


class CommandFailed(EvlogError):
    """The command did not end with exit code 0; the text says how it ended."""


class ExecFailed(EvlogError):
    """The command failed on an event as often as it may."""

    def __init__(self, event: Event, reason: str, failures: int) -> None:
        often = "" if failures == 1 else f" {failures} times"
        super().__init__(
            f"--exec failed{often} at position {event.position} ({event.type} in {event.stream!r}): "
            f"{reason}; mend it and run again, or use --on-failure park"
        )
        self.position = event.position
        self.stream = event.stream
        self.type = event.type
        self.reason = reason
        self.failures = failures


class Command:
    """Runs a command on events.

    Args:
        command: what `sh -c` is given.
        store_path: the store, which an `evlog` in the command finds in EVLOG_STORE.
        stops: what may end it early.
    """

    def __init__(self, command: str, store_path: str, stops: Stops) -> None:
        self._command = command
        self._stops = stops
        self._environment = {**os.environ, "EVLOG_STORE": os.path.abspath(store_path)}

    def __call__(self, event: Event) -> None:
        """Run the command on the event and wait for its end.

        Raises:
            CommandFailed: its exit code is not 0, or it could not be started.
        """
        with self._stops.held:
            process = self._start(event)
            try:
                with self._stops.let_through:
                    _feed(process, b"".join(encode_lines([event])))
                    code = process.wait()
            except BaseException:
                _end(process)
                raise
        if code:
            raise CommandFailed(_reason(code))

    def _start(self, event: Event) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - it is the user's own command
                [_SHELL, "-c", self._command],
                stdin=subprocess.PIPE,
                env=self._environment | _variables(event),
                process_group=0,
                bufsize=0,
            )
        except OSError as error:
            raise CommandFailed(f"it did not start: {error.strerror or error}") from None


class Runner:
    """Deals with the events of a subscription by a command, and with those that it fails on.

    Args:
        handler: the command.
        stops: what must not interrupt the parking of an event.
        retries: how often it may fail on one event.
        parks: whether an event that it failed on so often is put aside; else the run ends there.
    """

    gathers = False
    undone = None

    def __init__(
        self, handler: Command, subscription: evlog.Subscription, stops: Stops, retries: int, *, parks: bool
    ) -> None:
        self._handler = handler
        self._subscription = subscription
        self._stops = stops
        self._retries = retries
        self._parks = parks

    def take(self, event: Event) -> None:
        """Run the command on the event until it succeeds or has failed too often.

        Raises:
            ExecFailed: it has, and events are not parked.
        """

        def on_retry(error: Exception, failures: int, pause_seconds: float) -> None:
            console.note(
                f"--exec failed at position {event.position}: {error}; "
                f"failure {failures} of {self._retries}, again in {pause_seconds:g} s"
            )

        failure = attempt(self._handler, event, self._retries, on_retry)
        if failure is None:
            return
        reason = str(failure.error)
        if not self._parks:
            raise ExecFailed(event, reason, failure.attempts)
        with self._stops.held:
            self._subscription.park(event, reason, failure.attempts)
        console.note(f"parked position {event.position} after {failure.attempts} failures: {reason}")

    def flush(self) -> None:
        """Nothing is kept."""


def _variables(event: Event) -> dict[str, str]:
    return {
        "EVLOG_POSITION": str(event.position),
        "EVLOG_STREAM": event.stream,
        "EVLOG_TYPE": event.type,
        "EVLOG_VERSION": str(event.version),
        "EVLOG_ID": str(event.id),
    }


def _feed(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[process.stdin.write(rest) or 0 :]
    except BrokenPipeError:
        pass  # a command need not read what it is given
    process.stdin.close()


def _reason(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its whole group, those that it started and left behind too."""
    if process.stdin is not None:
        process.stdin.close()
    last_moment = time.monotonic() + _GRACE_SECONDS
    _signal_group(process, signal.SIGTERM)
    _signal_group(process, signal.SIGCONT)  # one that is stopped would not notice
    while time.monotonic() < last_moment:
        process.poll()
        if not (_signal_group(process, 0) and _is_at_work(process.pid)):
            return
        time.sleep(_LOOK_AGAIN_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], signum: int) -> bool:
    """Whether there was a process in the group that could get the signal."""
    try:
        os.killpg(process.pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _is_at_work(group: int) -> bool:
    """Whether a process of the group still runs: an ended one stays in it until its parent sees."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return True  # nobody can say
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, _parent, its_group = file.read().rpartition(b")")[2].split()[:3]
        except OSError:
            continue  # it has ended meanwhile
        if int(its_group) == group and state not in {b"Z", b"X"}:
            return True
    return False
