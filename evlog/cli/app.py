"""The entry point: runs one command and turns whatever it ends with into an exit code.

Every way out of evlog goes through `run`: a result, an error in one line on stderr, a closed pipe, Ctrl-C.
Nothing is imported before `run` but what is needed to report an error, so that Ctrl-C gives no traceback
while the rest is being imported either.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Final, NoReturn

from evlog.cli._support import console
from evlog.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EvlogError

_BY_SIGNAL: Final = 128


def main() -> NoReturn:
    """Run the command that sys.argv names, and end the process with its exit code."""
    # Nothing that a command makes is a cycle worth finding: imports are 3 ms faster without the collector.
    gc.disable()
    # A file opened on a closed descriptor 1 would get what is meant for the terminal: give these to nobody.
    while (spare := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(spare)
    code = run(sys.argv[1:])
    if code > _BY_SIGNAL and code != EXIT_INTERRUPTED:
        _die_by(code - _BY_SIGNAL)
    # Store and output are closed and flushed by now. What is left is to take down Typer's modules one by one,
    # about 8 ms of the 80 that a command has; there are no threads and no exit handlers to be cut off.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run one command in this process.

    Args:
        arguments: what follows `evlog` on the command line.

    Returns:
        The exit code; everything printed is flushed. It is 128 and the signal's number, as a shell shows it,
        where a signal was obeyed.
    """
    try:
        code = _invoke(arguments)
        console.flush()
        return code
    except console.ClosedPipe:
        return EXIT_OK  # whoever reads has read enough: `evlog read | head` did what it was asked
    except KeyboardInterrupt:
        return _ended(EXIT_INTERRUPTED)
    except console.Terminated as terminated:
        return _ended(_BY_SIGNAL + terminated.signum)
    except EvlogError as error:
        return _failed(error, error.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends in one line
        return _failed(error, EXIT_FAILED)


def _invoke(arguments: list[str]) -> int:
    from evlog.cli._support.group import invoke

    return invoke(arguments)


def _failed(error: Exception, code: int) -> int:
    console.report(error)
    return _ended(code)


def _ended(code: int) -> int:
    """Print what a command left behind when it broke off; it is worth having, and no second error."""
    try:
        console.flush()
    except (console.ClosedPipe, EvlogError):
        pass
    return code


def _die_by(signum: int) -> None:
    """End as whoever sent it expects: a supervisor takes this for a clean end, and an exit code not."""
    import signal

    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
