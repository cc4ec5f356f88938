"""Damage is what loses something or misleads a reader; everything else that verify finds is a note."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import evlog
from evlog import CorruptionError, EventStore
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.filter import encode_block, encode_filter_header, identity_of
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.marks import MARK_BYTES
from evlog.files.format.paths import filter_path
from evlog.files.format.sorted_index import page_crcs
from evlog.files.log.manifest_file import read_manifest
from tests.support.helpers import fill, frames_of, segment_files


@pytest.fixture
def filled(store: EventStore) -> EventStore:
    """Return a store of three segments, while no process writes or builds indexes."""
    fill(store, 20)
    store.close()
    os.utime(f"{store.path}/manifest.json", (0, 0))
    return store


def severities(store: EventStore, *, quick: bool = False) -> dict[str, str]:
    """Return the severity of each kind of finding."""
    report = evlog.verify_store(store.path, quick=quick)
    found = {finding.kind: finding.severity for finding in report.findings}
    assert report.ok == ("damage" not in found.values())
    return found


def remove(suffix: str) -> Callable[[EventStore], object]:
    return lambda store: segment_files(store, suffix)[0].unlink()


def shorten(suffix: str) -> Callable[[EventStore], object]:
    def damage(store: EventStore) -> None:
        path = segment_files(store, suffix)[0]
        path.write_bytes(path.read_bytes()[:-3])

    return damage


def leave(name: str, content: bytes = b"x") -> Callable[[EventStore], object]:
    return lambda store: Path(store.path, name).write_bytes(content)


def tear(store: EventStore) -> None:
    path = segment_files(store, "log")[-1]
    path.write_bytes(frames_of(path) + path.read_bytes()[64:100])


def mislead(store: EventStore) -> None:
    """Exchange two postings of an index and write the CRC of its page again."""
    path = segment_files(store, "streams")[0]
    raw = bytearray(path.read_bytes())
    raw[-24:-20], raw[-20:-16] = raw[-20:-16], raw[-24:-20]
    raw[-4:] = page_crcs(bytes(raw[FILE_HEADER_BYTES:-4]))
    path.write_bytes(raw)


def move(store: EventStore) -> None:
    """Change where .offsets says that a record is by a multiple of the CRC's polynomial: no CRC changes."""
    path = segment_files(store, "offsets")[0]
    raw = bytearray(path.read_bytes())
    for at, byte in enumerate(bytes.fromhex("410671db01"), FILE_HEADER_BYTES + 3 * ENTRY_BYTES + 16):
        raw[at] ^= byte
    path.write_bytes(raw)


def hide(store: EventStore) -> None:
    """Write a filter that knows no key of the first segment, its CRCs right."""
    manifest = read_manifest(store.path)
    content = encode_filter_header(manifest.store_id_bytes) + encode_block(
        identity_of(manifest.segments[0]), [1], [1], [1], []
    )
    Path(filter_path(store.path)).write_bytes(content)


NOTES: dict[str, tuple[Callable[[EventStore], object], str]] = {
    "a missing index": (remove("streams"), "missing"),
    "missing .offsets": (remove("offsets"), "missing"),
    "a cut index": (shorten("ids"), "length"),
    "a missing lock": (lambda store: Path(store.path, "lock").unlink(), "missing"),
    "missing marks": (lambda store: Path(store.path, "durable").unlink(), "missing"),
    "damaged marks": (leave("durable", b"x" * MARK_BYTES), "mark"),
    "a torn tail": (tear, "tail"),
    "a file of the file manager": (leave("segments/.DS_Store"), "extra"),
    "a text beside the logs": (leave("segments/README"), "extra"),
    "an editor's backup": (leave("segments/notes~"), "extra"),
    "a segment that no manifest names": (leave("segments/00000000000000000001.1.log"), "extra"),
    "a half written index": (leave("segments/00000000000000000001.0.ids.0badcafe.tmp"), "extra"),
    "a damaged filter": (leave("segments/filter"), "header"),
    "a half written manifest": (leave("manifest.json.tmp"), "extra"),
}
DAMAGE: dict[str, tuple[Callable[[EventStore], object], str]] = {
    "a missing log": (remove("log"), "missing"),
    "a cut log": (shorten("log"), "length"),
    "a damaged manifest": (leave("manifest.json", b"{"), "manifest"),
    "a damaged checkpoint": (leave("subscriptions/a.json"), "checkpoint"),
    "an index that misleads, its CRCs right": (mislead, "index"),
    ".offsets that mislead, their CRC right": (move, "index"),
    "a filter that hides events, its CRCs right": (hide, "index"),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_loses_nothing_is_a_note(filled: EventStore, name: str) -> None:
    change, kind = NOTES[name]
    change(filled)
    assert severities(filled) == {kind: "note"}
    assert "damage" not in severities(filled, quick=True).values()


@pytest.mark.parametrize("name", DAMAGE)
def test_what_loses_something_or_misleads_is_damage(filled: EventStore, name: str) -> None:
    change, kind = DAMAGE[name]
    Path(filled.path, "subscriptions").mkdir(exist_ok=True)
    change(filled)
    assert severities(filled)[kind] == "damage"


def test_a_backup_without_derived_files_is_ok(filled: EventStore, memory_path: Path) -> None:
    kept = ("manifest.json", "durable", *(f"segments/{path.name}" for path in segment_files(filled, "log")))
    (memory_path / "copy" / "segments").mkdir(parents=True)
    for name in kept:
        (memory_path / "copy" / name).write_bytes(Path(filled.path, name).read_bytes())
    os.utime(memory_path / "copy" / "manifest.json", (0, 0))
    report = evlog.verify_store(memory_path / "copy")
    assert report.ok
    assert {finding.severity for finding in report.findings} == {"note"}
    assert report.events == 20


def test_a_repair_rebuilds_offsets_that_mislead_with_the_right_crc(filled: EventStore) -> None:
    move(filled)
    with evlog.open(filled.path) as store, pytest.raises(CorruptionError):
        list(store.read("s-0"))
    done = evlog.repair_store(filled.path)
    assert done.report.findings == ()
    with evlog.open(filled.path) as store:
        assert len(list(store.read("s-0"))) == 7


def test_a_repair_removes_a_filter_that_hides_events(filled: EventStore) -> None:
    hide(filled)
    done = evlog.repair_store(filled.path)
    assert done.report.findings == ()
    assert [finding.kind for finding in done.repaired] == ["index"]
    with evlog.open(filled.path) as store:
        assert len(list(store.read("s-0"))) == 7
