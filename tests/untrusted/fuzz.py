"""Change the files of a store at random, CRCs right, and use it: each use works or raises an EvlogError.

    python -m tests.untrusted.fuzz --minutes 10 [--seed 1] [--kind log]

In this program the CRC-32 of everything but hashes is one constant, so that each change has right CRCs
without a word about formats here. It has to be a process of its own: it replaces `zlib.crc32` before evlog
is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import zlib
from pathlib import Path

REAL_CRC32 = zlib.crc32
CONSTANT = 0x5A5A5A5A
INTERESTING = (0, 1, 2, 3, 0x7F, 0x80, 0x90, 0x99, 0xC0, 0xC3, 0xC4, 0xCB, 0xCE, 0xCF, 0xD3, 0xD9, 0xDC, 0xDD, 0xDF, 0xFF)
NUMBERS = (0, 1, 2, 7, 40, 64, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1)
VALUES = (None, True, False, 0, 1, -1, 1.5, 1 << 31, 1 << 63, 1 << 70, "", "x", "../../outside", "0" * 32, [], {}, [1], {"a": 1}, [[]])
KINDS = (
    "manifest.json",
    "log",
    "offsets",
    "streams",
    "types",
    "ids",
    "removed",
    "zst",
    "durable",
    "checkpoint",
    "parked",
    "queue",
)


def constant_crc32(_data: object, _start: int = 0) -> int:
    """Return what every CRC is here."""
    return CONSTANT


def kind_of(name: str) -> str:
    """Return the kind of a file of the store; for those that this table does not know, its suffix."""
    special = {"manifest.json": "manifest.json", "durable": "durable", "queue": "queue", "lock": "lock"}
    if name in special:
        return special[name]
    suffix = name.rpartition(".")[2]
    return {"json": "checkpoint", "gone": "removed"}.get(suffix, suffix)


def change(content: bytes, kind: str, choose: random.Random) -> bytes:
    """Return the content with some changes."""
    if kind in ("manifest.json", "checkpoint", "parked") and choose.random() < 0.8:
        return change_lines(content, choose)
    data = bytearray(content)
    for _ in range(choose.choice((1, 1, 1, 2, 3, 8))):
        at = choose.randrange(len(data)) if data else 0
        if kind in ("log", "removed") and b"a-1" in data and choose.random() < 0.5:
            at = min(len(data) - 1, max(0, data.find(b"\x99", at)) + choose.randrange(24))  # a record's head
        match choose.randrange(8):
            case 0 | 1 | 2 if data:
                data[at] = choose.choice(INTERESTING)
            case 3 if data:
                data[at] ^= 1 << choose.randrange(8)
            case 4 if data:
                size = choose.choice((2, 4, 8))
                at -= at % size
                number = choose.choice((*NUMBERS, len(data), len(data) - 1, at))
                data[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            case 5 if data:
                other = choose.randrange(len(data))
                length = choose.choice((1, 4, 8, 40))
                data[at : at + length] = data[other : other + length]
            case 6:
                del data[at:]
            case _:
                data[at:at] = bytes(choose.choice((1, 4, 8, 40, 4096)))
    return bytes(data)


def change_lines(content: bytes, choose: random.Random) -> bytes:
    """Replace a value somewhere in a line of JSON."""
    lines = content.splitlines()
    at = choose.randrange(len(lines))
    document = json.loads(lines[at])
    document.pop("crc32", None)
    place, key = document, choose.choice(list(document))
    while isinstance(place[key], dict | list) and place[key] and choose.random() < 0.8:
        place = place[key]
        key = choose.choice(list(place)) if isinstance(place, dict) else choose.randrange(len(place))
    value = choose.choice(VALUES)
    if isinstance(place[key], int) and choose.random() < 0.5:
        value = place[key] + choose.choice((-1, 1, 7, 1 << 20))
    if isinstance(place, dict) and choose.random() < 0.1:
        del place[key]
    else:
        place[key] = value
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    lines[at] = body + b',"crc32":"%08x"}' % CONSTANT
    return b"".join(line + b"\n" for line in lines)


def main() -> int:
    """Run for a while; print each fault once. The exit code is 1 if there was one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--trials", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", help="only files of this kind")
    options = parser.parse_args()

    zlib.crc32 = constant_crc32  # type: ignore[assignment]
    from evlog.files.format import hashes

    hashes.crc32 = REAL_CRC32
    from tests.untrusted.uses import READING, USES, WRITING, build, faults_of, tree

    deadline = time.monotonic() + 60 * options.minutes
    seen: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="evlog-fuzz-") as folder:
        originals = [f"{folder}/plain", f"{folder}/compressed"]
        build(originals[0])
        try:
            build(originals[1], compressed=True)
        except ImportError:
            originals.pop()
        for original in originals:
            broken = faults_of_copy(original, folder, list(USES), faults_of)
            assert not broken, broken
        trial = 0
        while trial < options.trials and time.monotonic() < deadline:
            choose = random.Random(f"{options.seed}/{trial}")
            original = choose.choice(originals)
            files = sorted(path for path in Path(original).rglob("*") if path.is_file())
            kinds = sorted({kind_of(path.name) for path in files if options.kind in kind_of(path.name)})
            kind = choose.choice(kinds)
            path = choose.choice([path for path in files if kind_of(path.name) == kind])
            store = Path(folder, "store")
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(original, store)
            target = store / path.relative_to(original)
            target.write_bytes(change(target.read_bytes(), kind, choose))
            names = choose.sample(list(READING), 5) + choose.sample(list(WRITING), 2)
            names += ["verify", choose.choice(["read_all", "append", "compact", "repair"])]
            before = {name: tree(Path(name)) for name in originals}
            for fault in faults_of(str(store), names):
                key = f"{kind}: {fault.partition(': ')[2].partition(':  ')[0]}"
                if key not in seen:
                    seen[key] = fault
                    print(f"seed {options.seed}/{trial} {kind}: {fault}", flush=True)
            assert before == {name: tree(Path(name)) for name in originals}
            assert {path.name for path in Path(folder).iterdir()} <= {"plain", "compressed", "store"}
            trial += 1
    print(f"{trial} trials, {len(seen)} faults")
    return int(bool(seen))


def faults_of_copy(original: str, folder: str, names: list[str], faults_of: object) -> list[str]:
    """Use an unchanged copy: that must work."""
    copy = f"{folder}/copy"
    shutil.copytree(original, copy)
    try:
        return faults_of(copy, names)  # type: ignore[operator, no-any-return]
    finally:
        shutil.rmtree(copy)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
