"""Change the files of a store at random, CRCs right, and use it: each use works or raises an EvlogError.

    python -m tests.untrusted.fuzz --minutes 10 [--seed 1] [--kind log]

In this program the CRC-32 of everything but hashes is one constant, so that each change has right CRCs
without a word about formats here. It has to be a process of its own: it replaces `zlib.crc32` before evlog
is imported.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

REAL_CRC32 = zlib.crc32
CONSTANT = 0x5A5A5A5A
# Heads of msgpack values, and other bytes at the edge of something.
BYTES = bytes.fromhex("00010203 7f8090 99 c0c3c4cbcecfd3d9dcdddf ff")
NUMBERS = (0, 1, 2, 7, 40, 64, 255, 1 << 16, *(number - 1 for number in (1 << 31, 1 << 32, 1 << 63, 1 << 64)))
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 1 << 31, 1 << 63, 1 << 70),
    *("", "x", "../../outside", "0" * 32, [], {}, [1], {"a": 1}, [[]]),
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
    return {"json": "checkpoint"}.get(suffix, suffix)


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
                data[at] = choose.choice(BYTES)
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
    lines = [content] if content.startswith(b'{"format":1,"store_id"') else content.splitlines()
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
    text = json.dumps(document, separators=(",", ":"))
    if "segments" in text:  # the manifest has a line for each segment
        text = text.replace(":[[", ":[\n[").replace("],[", "],\n[").replace("]]}", "]\n]}")
    body = text.encode()[:-1]
    lines[at] = body + b',"crc32":"%08x"}' % CONSTANT
    return b"".join(line + b"\n" for line in lines)


class Fuzzer:
    """Two stores in a directory, and what goes wrong with changed copies of them."""

    def __init__(self, folder: str) -> None:
        from tests.untrusted.uses import USES, build, faults_of, tree

        self.folder = Path(folder)
        self.store = self.folder / "store"
        self.originals = [self.folder / "plain", self.folder / "compressed"]
        for original in self.originals:
            build(str(original), compressed=original.name == "compressed")
            shutil.copytree(original, self.store)
            faults = faults_of(str(self.store), list(USES))
            assert not faults, faults
            shutil.rmtree(self.store)
        self.outside = tree(self.folder)

    def files(self, original: Path, kind: str) -> dict[str, list[Path]]:
        """Return the files of a store by kind."""
        found: dict[str, list[Path]] = {}
        for path in sorted(path for path in original.rglob("*") if path.is_file()):
            if kind in kind_of(path.name):
                found.setdefault(kind_of(path.name), []).append(path)
        return found

    def run(self, choose: random.Random, only: str) -> tuple[str, list[str]]:
        """Change one file of a copy and use it; return the file's kind, and what went wrong."""
        from tests.untrusted.uses import READING, WRITING, faults_of, tree

        original = choose.choice(self.originals)
        files = self.files(original, only)
        kind = choose.choice(list(files))
        path = choose.choice(files[kind])
        shutil.copytree(original, self.store)
        target = self.store / path.relative_to(original)
        target.write_bytes(change(target.read_bytes(), kind, choose))
        names = [*choose.sample(list(READING), 5), "read_all", "verify", *choose.sample(list(WRITING), 3)]
        faults = faults_of(str(self.store), [*names, "verify", "append"])
        shutil.rmtree(self.store)
        assert tree(self.folder) == self.outside, "something outside the store was changed"
        return kind, faults


def main() -> int:
    """Run for a while; print each fault once. The exit code is 1 if there was one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--trials", type=int, default=sys.maxsize)
    parser.add_argument("--seed", default="0", help="SEED, or SEED/N to repeat a trial that was printed")
    parser.add_argument("--kind", default="", help="only files of this kind")
    parser.add_argument("--crashes", action="store_true", help="do not ask whether verify finds the change")
    options = parser.parse_args()
    zlib.crc32 = constant_crc32
    hashes = import_module("evlog.files.format.hashes")
    vars(hashes)["crc32"] = REAL_CRC32  # constant hashes would be legal, and slow

    seed, _, only = options.seed.partition("/")
    trials = range(int(only), int(only) + 1) if only else range(options.trials)
    deadline = time.monotonic() + 60 * options.minutes
    seen: set[str] = set()
    done = 0
    with tempfile.TemporaryDirectory(prefix="evlog-fuzz-") as folder:
        fuzzer = Fuzzer(folder)
        for trial in trials:
            if time.monotonic() > deadline:
                break
            done += 1
            kind, faults = fuzzer.run(random.Random(f"{seed}/{trial}"), options.kind)
            for fault in faults:
                if options.crashes and "it finds no damage" in fault:
                    continue
                key = f"{kind}: {fault.partition(': ')[2][:60]}"
                if key not in seen:
                    seen.add(key)
                    print(f"{seed}/{trial} {kind}: {fault}", flush=True)
    print(f"{done} trials, {len(seen)} faults")
    return int(bool(seen))


if __name__ == "__main__":
    sys.exit(main())
