"""The entry point: run one command, and turn the way in which it ends into an exit code.

Every way out of evlog goes through `run`: a result, an error in one line on stderr, a closed pipe, Ctrl-C.
Only what reports an error is imported before `run`, so that Ctrl-C during the other imports gives no
traceback.
"""

from __future__ import annotations

import gc
import os
import sys

from evlog.cli._support import console
from evlog.errors import BY_SIGNAL, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EvlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command that sys.argv names, and end the process with its exit code."""
    # A command makes no cycles worth collecting; without the collector imports are 3 ms faster.
    gc.disable()
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # A file that is opened on a closed descriptor 1 would get the output: occupy these descriptors.
        while (spare := os.open(os.devnull, os.O_RDONLY)) <= 2:
            pass
        os.close(spare)
    if os.getpid() == 1:
        _obey_signals()
    code = run(_utf8(sys.argv[1:]))
    if code > BY_SIGNAL:
        from evlog.cli._support.stops import die_by

        die_by(code - BY_SIGNAL)
    # The store is closed, the output is flushed, and no threads or exit handlers are left. So the process
    # ends without the interpreter's own teardown, which costs 8 ms if Typer was imported.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run one command in this process.

    Args:
        arguments: what follows `evlog` on the command line.

    Returns:
        The exit code; everything printed is flushed. It is 128 plus the signal's number, as a shell shows it,
        if the command obeyed a signal.
    """
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # also a second one
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    console.reset()
    try:
        code = _invoke(arguments)
        console.flush()
        return code
    except console.ClosedPipe:
        return console.verdict()  # 0 for `evlog read | head`; 4 for a damaged store
    except KeyboardInterrupt:
        console.flush_at_once()
        return EXIT_INTERRUPTED
    except console.Terminated as terminated:
        console.flush_at_once()
        return BY_SIGNAL + terminated.signum
    except console.OutputFailed as error:
        return _failed(error, console.verdict() or error.exit_code)
    except EvlogError as error:
        return _failed(error, error.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends in one line
        return _failed(error, EXIT_FAILED)


def _invoke(arguments: list[str]) -> int:
    # msgspec's C code imports datetime without a look at the result: an interrupt there would be lost, and
    # crash the process later. msgpack needs it anyway.
    import datetime  # noqa: F401, ICN001

    from evlog.cli._support import plain
    from evlog.files.disk import file_lock

    file_lock.say = console.note
    found = plain.parse(arguments)
    if found is None:
        from evlog.cli._support.group import invoke

        return invoke(arguments)
    from evlog.cli._support.parameters import run_command

    code = run_command(*found)
    return EXIT_OK if code is None else int(code)


def _failed(error: Exception, code: int) -> int:
    try:
        console.flush()  # what was printed before
    except (console.ClosedPipe, EvlogError):
        pass  # one error is enough
    console.report(error)
    return code


def _utf8(arguments: list[str]) -> list[str]:
    """Return the arguments decoded as UTF-8, whatever the locale is; other bytes become surrogates."""
    if sys.getfilesystemencoding() == "utf-8":
        return arguments
    return [os.fsencode(argument).decode("utf-8", "surrogateescape") for argument in arguments]


def _obey_signals() -> None:
    """End at signals as other processes do: the first one of a container gets only those that it handles."""
    import signal

    from evlog.cli._support.stops import end_at_once_by

    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_DFL:
            end_at_once_by(signum)
