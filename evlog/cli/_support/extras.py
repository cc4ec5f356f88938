"""Commands that need an extra: if a library is missing, the error is one line that names the extra."""

from __future__ import annotations

from evlog.errors import ExtraNotInstalled


class NeedsExtra:
    """A block in which a missing library of the extra raises ExtraNotInstalled.

    Args:
        extra: its name, and that of the command.
        libraries: the modules that come with it, each with the name of its library.
    """

    def __init__(self, extra: str, **libraries: str) -> None:
        self._extra = extra
        self._libraries = libraries

    def __enter__(self) -> None:
        """Begin to import."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise ExtraNotInstalled instead of the import's own error."""
        if isinstance(error, ModuleNotFoundError):
            library = self._libraries.get((error.name or "").partition(".")[0])
            if library is not None:
                raise ExtraNotInstalled(f"evlog {self._extra}", library, self._extra) from None
