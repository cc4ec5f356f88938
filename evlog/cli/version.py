"""`evlog version`: the version, as `evlog --version` prints it."""

from __future__ import annotations

from evlog.cli._support import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given, Parameter

HELP: Final = """Show the version.

\b
  evlog version
  evlog --version
"""

PARAMETERS: Final[tuple[Parameter, ...]] = ()


def command(_given: Given) -> None:
    """Print the version."""
    from evlog._version import __version__

    console.write(f"evlog {__version__}\n".encode())
