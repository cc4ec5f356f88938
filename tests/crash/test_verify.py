"""Verify finds every damage: flipped bits, cut, removed and swapped files."""

from __future__ import annotations

import os
import random
from itertools import combinations

import pytest

from evlog.files.check.verify import verify_store
from evlog.files.format.marks import MARK_BYTES
from evlog.model.reports import Finding
from tests.crash import recordings
from tests.crash.check import materialise
from tests.crash.damage import (
    ACTIVE,
    DIRECTORIES,
    DURABLE,
    MANIFEST,
    STORE,
    Files,
    build_store,
    flip,
    newer_header,
    read_files,
    segment,
    sound_store,
)
from tests.crash.states import State

pytestmark = pytest.mark.usefixtures("no_writer_at_work")

FLIPS = 1000
LOCK = f"{STORE}/lock"
FILTER = f"{STORE}/segments/filter"


@pytest.fixture
def files() -> Files:
    return sound_store()[0].files


def put(root: str, files: Files) -> str:
    """Make the directory hold exactly these files; return the store's path."""
    if not os.path.isdir(f"{root}/above"):
        materialise(State({}, DIRECTORIES), root)
    for path in read_files(root).keys() - files.keys():
        os.remove(f"{root}/{path}")
    for path, content in files.items():
        with open(f"{root}/{path}", "wb") as file:
            file.write(content)
    os.utime(f"{root}/{MANIFEST}" if MANIFEST in files else root, (0, 0))  # verify does not wait for indexes
    return f"{root}/{STORE}"


def found_in(root: str, files: Files, path: str) -> list[Finding]:
    """Return what verify finds in a damaged file; every finding names that file or its segment."""
    report = verify_store(put(root, files))
    assert read_files(root) == files, "verify wrote"
    name = path.removeprefix(f"{STORE}/")
    return [finding for finding in report.findings if finding.file.split(".")[0] == name.split(".")[0]]


def test_a_sound_store_has_no_findings(root: str, files: Files) -> None:
    report = verify_store(put(root, files))
    assert report.findings == ()
    assert (report.events, report.segments, report.position) == (15, 4, 15)
    segments = [content for path, content in files.items() if "/segments/" in path and path != FILTER]
    assert report.bytes == sum(map(len, segments))


def test_every_flipped_bit_is_found(root: str, files: Files) -> None:
    dice = random.Random(5)
    places = [(path, at) for path, content in sorted(files.items()) for at in range(len(content))]
    for path, at in dice.sample(places, FLIPS):
        damaged = files | {path: flip(files[path], at, dice.randrange(8))}
        assert found_in(root, damaged, path), f"{path} byte {at}"


def filter_ends(content: bytes) -> list[int]:
    """Return where the header and each block of the filter end: it may be cut there."""
    ends = [64]
    while ends[-1] < len(content):
        ends.append(ends[-1] + int.from_bytes(content[ends[-1] + 4 : ends[-1] + 8], "little"))
    return ends


def test_every_truncation_is_found(root: str, files: Files) -> None:
    assert not files[DURABLE][-MARK_BYTES:].strip(b"\0")  # a mark of zeros says as much as none
    for path, content in sorted(files.items()):
        for size in {0, 1, 32, 63, 64, len(content) // 2, len(content) - 40, len(content) - 1}:
            whole = path == FILTER and size in filter_ends(content)
            whole = whole or (path == DURABLE and size == len(content) - MARK_BYTES)
            if 0 <= size < len(content) and not whole:
                assert found_in(root, files | {path: content[:size]}, path), f"{path} cut to {size}"


def test_every_lengthened_file_is_found(root: str, files: Files) -> None:
    for path, content in sorted(files.items()):
        for more in (b"\0", bytes(700), content[64:] or b"x", bytes(700) + b"x" + bytes(70)):
            found = path != LOCK and found_in(root, files | {path: content + more}, path)
            is_room = path == segment(ACTIVE, "log") and not more.strip(b"\0")
            is_room = is_room or (path == FILTER and more == content[64:])  # blocks may be there twice
            assert bool(found) == (path != LOCK and not is_room), f"{path} with {len(more)} more"


def test_every_removed_file_is_found(root: str, files: Files) -> None:
    for path in sorted(files.keys() - {FILTER}):  # a writer adds that when it pays
        rest = {name: content for name, content in files.items() if name != path}
        assert found_in(root, rest, path), path


def test_every_swapped_pair_of_files_is_found(root: str, files: Files) -> None:
    for one, other in combinations(sorted(files), 2):
        if files[one] != files[other]:
            swapped = files | {one: files[other], other: files[one]}
            assert found_in(root, swapped, one) or found_in(root, swapped, other), f"{one} and {other}"


def test_files_of_another_store_are_found(root: str, files: Files) -> None:
    with recordings.scratch() as elsewhere:
        build_store(elsewhere)
        others = read_files(elsewhere)
    assert others.keys() == files.keys()
    for path in sorted(files):
        if path not in (LOCK, MANIFEST):
            assert found_in(root, files | {path: others[path]}, path), path
    whole = verify_store(put(root, others))
    assert whole.ok
    assert whole.digest != verify_store(put(root, files)).digest


def test_a_newer_header_is_found(root: str, files: Files) -> None:
    for path in sorted(files):
        if "/segments/" in path:
            assert found_in(root, files | {path: newer_header(files[path])}, path), path


def test_extra_files_are_found(root: str, files: Files) -> None:
    for name in (
        "00000000000000000099.0.log",
        "00000000000000000001.1.streams",
        "x.0badcafe.tmp",
        "notes.txt",
    ):
        path = f"{STORE}/segments/{name}"
        report = verify_store(put(root, files | {path: b"x"}))
        assert [finding.kind for finding in report.findings] == ["extra"], name
    report = verify_store(put(root, files | {f"{MANIFEST}.tmp": b"x"}))
    assert [finding.kind for finding in report.findings] == ["extra"]


def test_quick_finds_what_lengths_headers_and_the_tail_show(root: str, files: Files) -> None:
    assert verify_store(put(root, files), quick=True).ok
    for path, content in sorted(files.items()):
        if path in (LOCK, FILTER):
            continue
        rest = {name: its for name, its in files.items() if name != path}
        for damaged in (rest, files | {path: content[:-1]}, files | {path: flip(content, 20)}):
            assert verify_store(put(root, damaged), quick=True).findings, path
