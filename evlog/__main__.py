"""`python -m evlog`, and the console script: what comes before the command line.

While the modules are imported that end a command in order, Ctrl-C ends the process at once and quietly.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the module signal has it all, too, but costs an import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command that sys.argv names, and end the process with its exit code."""
    handler = _signal.getsignal(_signal.SIGINT)
    if handler is not _signal.SIG_IGN:  # as a shell has it for what runs in the background
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from evlog.cli.app import main as run

    _signal.signal(_signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
