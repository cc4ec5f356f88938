"""verify: everything checked, beside what reading the same files once costs at the least.

"crc" is one pass of zlib.crc32 over all files of the store, times the cores that verify used; "crc+sha256"
the same with the SHA-256 of the logs, without which there is no digest. Page cache warm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import evlog
from evlog.files.check.verify import process_count
from tests.benchmarks.measure import Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.run import Run

_PIECE_BYTES = 1 << 20
_LARGE_PAYLOAD_BYTES = 10_000


def run(run: Run) -> Report:
    """Verify a store of small events and one of large ones."""
    report = Report(
        "verify", f"check all of {run.sizes.bulk:,} events of 100 bytes, and a fiftieth of 10,000 bytes"
    )
    small = run.filled_directories(["evlog"])["evlog"] / "store"
    large = _make_large(run, run.sizes.bulk // 50)
    cores = {name: process_count(_log_bytes(path)) for name, path in (("small", small), ("large", large))}
    report.settings = {"evlog": {"cores": f"{cores['small']} and {cores['large']}"}}
    for key, path, share in (("small", small, 0.15), ("large", large, 0.6)):
        size = sum(file.stat().st_size for file in _files(path))
        columns: dict[str, Callable[[], float]] = {
            "evlog": partial(_rate, size, 1, partial(_verify, path)),
            "crc": partial(_rate, size, cores[key], partial(_read, path, hashed=False)),
            "crc+sha256": partial(_rate, size, cores[key], partial(_read, path, hashed=True)),
        }
        samples = take_turns(run.sizes.rounds, columns)
        target = Target(share, at_least=True, over="crc+sha256")
        report.figures.append(Figure(f"verify, {key} events", "MB/s", samples, target))
    quick = take_turns(run.sizes.rounds, {"evlog": lambda: 1e3 * seconds_of(partial(_quick, small))})
    report.figures.append(Figure("--quick", "ms", quick, Target(1000, at_least=False)))
    return report


def _rate(size: int, cores: int, work: Callable[[], object]) -> float:
    return cores * size / seconds_of(work) / 1e6


def _verify(path: Path) -> None:
    report = evlog.verify_store(path)
    if not report.ok:
        raise RuntimeError(f"a sound store has findings: {report.findings[:3]}")


def _quick(path: Path) -> None:
    evlog.verify_store(path, quick=True)


def _read(path: Path, *, hashed: bool) -> None:
    for name in _files(path):
        digest = sha256()
        crc = 0
        with name.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                crc = crc32(piece, crc)
                if hashed and name.suffix == ".log":
                    digest.update(piece)


def _files(path: Path) -> list[Path]:
    return sorted((path / "segments").iterdir())


def _log_bytes(path: Path) -> list[int]:
    return [name.stat().st_size for name in _files(path) if name.suffix == ".log"]


def _make_large(run: Run, events: int) -> Path:
    path = run.fresh_directory("verify-large") / "store"
    payload = b'"%s"' % (b"x" * _LARGE_PAYLOAD_BYTES)
    with evlog.open(path, create=True) as store:
        for first in range(0, events, 1000):
            batch = [evlog.NewEvent("Large", payload) for _ in range(min(1000, events - first))]
            store.append(f"large-{first // 1000 % 50}", batch)
    return path
