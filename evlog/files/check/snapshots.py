"""Check the files of snapshots. They are derived: a bad one is a note, and the next fold rebuilds it."""

from __future__ import annotations

from evlog.errors import CorruptionError, EvlogError
from evlog.files.check import findings as kinds
from evlog.files.disk.files import DISK
from evlog.files.follow.snapshot_file import SnapshotFile, scan_names
from evlog.files.format import paths
from evlog.files.log.manifest_file import read_manifest
from evlog.model.reports import Finding


def check_snapshots(store: str, *, contents: bool = True) -> list[Finding]:
    """Find snapshots that are damaged, in a file of another name, or of another store.

    Args:
        contents: read them whole, not only their first lines.
    """
    found = []
    try:
        store_id = read_manifest(store).store_id
        for file, name in scan_names(store):
            where = f"{paths.SNAPSHOTS}/{file}"
            if name is None:
                found.append(_finding(where, "its first line is damaged"))
                continue
            snapshot = SnapshotFile(store, store_id, *name, DISK)
            try:
                if not snapshot.path.endswith(f"/{file}"):
                    found.append(_finding(where, "its file has another snapshot's name"))
                elif contents:
                    snapshot.load()
            except CorruptionError as error:
                found.append(_finding(where, error.detail))
    except EvlogError as error:
        found.append(_finding(paths.SNAPSHOTS, error.problem))
    return found


def _finding(file: str, detail: str) -> Finding:
    return kinds.note(kinds.SNAPSHOT, file, None, None, f"{detail}; {kinds.DERIVED}")
