"""A pager for long text on a terminal, chosen as git chooses it."""

from __future__ import annotations

import os
from typing import Final

from evlog.cli._support import console

# What git sets: quit if the text fits one screen, show colours, leave the text on the screen.
_LESS_OPTIONS: Final = "FRX"
_NOT_STARTED: Final = (126, 127)  # a shell's exit codes for a command that it could not run


def show(text: bytes) -> None:
    """Show text in the pager if stdout is a terminal, else write it to stdout.

    The pager is $EVLOG_PAGER, else $PAGER, else less. An empty one, or `cat`, means none.
    """
    pager = _pager() if console.stdout_is_terminal() else ""
    if pager.strip() in {"", "cat"} or not _run(pager, text):
        console.write(console.Styled(text))


def _pager() -> str:
    for name in ("EVLOG_PAGER", "PAGER"):
        if name in os.environ:
            return os.environ[name]
    found = any(os.access(os.path.join(folder, "less"), os.X_OK) for folder in os.get_exec_path())
    return "less" if found else ""


def _run(pager: str, text: bytes) -> bool:
    """Run the pager on the text and wait until the user leaves it; False if it could not be started."""
    import signal
    import subprocess

    console.flush()
    environment = {"LESS": _LESS_OPTIONS, "LV": "-c", **os.environ}
    try:
        process = subprocess.Popen(pager, shell=True, stdin=subprocess.PIPE, env=environment)  # noqa: S602
    except OSError:
        return False
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's: in less it ends a search
    try:
        process.communicate(text)
    finally:
        signal.signal(signal.SIGINT, former)
    return process.returncode not in _NOT_STARTED
