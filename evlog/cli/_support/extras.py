"""Commands that need an extra: without a library of it, the error is one line that names the extra."""

from __future__ import annotations

from evlog.errors import ExtraNotInstalled


class NeedsExtra:
    """A block in which a library of the extra that is missing, or cannot be loaded, raises ExtraNotInstalled.

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
        if isinstance(error, ImportError):
            module = (error.name or next(iter(self._libraries))).partition(".")[0]  # some errors name none
            library = self._libraries.get(module)
            if library is not None:
                raise ExtraNotInstalled(f"evlog {self._extra}", library, self._extra, error) from error
