"""Where the programs and packages of peers are, which versions they have, and how to get them."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path
from typing import Final

_FOLDERS: Final = (Path(sys.executable).parent, Path("/usr/lib/postgresql/15/bin"))


def find_program(name: str) -> Path | None:
    """Return the program beside Python, on the path, or where Debian puts PostgreSQL's; None if not found."""
    for folder in _FOLDERS:
        if (folder / name).exists():
            return folder / name
    found = shutil.which(name)
    return None if found is None else Path(found)


def program(name: str) -> Path:
    """Return the program, which must be there."""
    found = find_program(name)
    if found is None:
        raise FileNotFoundError(name)
    return found


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    return importlib.metadata.version(package)


def how_to_get_packages(*packages: str) -> str | None:
    """Return what to do if one of the packages is not installed."""
    try:
        for package in packages:
            version_of(package)
    except importlib.metadata.PackageNotFoundError:
        return "pip install -e '.[bench]'"
    return None


def how_to_get_program(name: str, debian: str) -> str | None:
    """Return what to do if a program is not there."""
    return None if find_program(name) else f"apt-get install {debian}"
