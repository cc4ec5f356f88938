"""Live latency: from an append in one process to the event in another that follows, a hundred times a second.

By the peer's own way to be told: evlog's `subscribe`, Redis' blocking XREAD, PostgreSQL's LISTEN, JetStream's
ordered consumer, UmaDB's subscription, `tail -f` on the plain file. A peer may deliver before the append has
returned: from the return on that counts as nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tests.benchmarks.dataset import Item
from tests.benchmarks.measure import BEST, Figure, Report, Target
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.run import Run

_EVERY_SECONDS: Final = 0.01
_START_SECONDS: Final = 10.0
_LOOK: Final = b'{"look":true}'


def run(run: Run) -> Report:
    """Follow each peer from another process while appending to it."""
    report = Report("latency", f"live, {1 / _EVERY_SECONDS:.0f} appends a second, {run.sizes.live} of them")
    names = run.having("follow")
    report.settings = run.settings()
    called: dict[str, list[float]] = {}
    returned: dict[str, list[float]] = {}
    for name, directory in run.fresh("latency", names).items():
        with PEERS[name].serve(directory):
            called[name], returned[name] = _follow(name, directory, run.sizes.live)
    report.figures.append(
        Figure("append called → event seen", "ms", called, Target(2.0, at_least=False, over=BEST))
    )
    report.figures.append(Figure("append returned → event seen", "ms", returned, Target(1.0, at_least=False)))
    worst = {name: [sorted(each)[int(len(each) * 0.99)]] for name, each in returned.items()}
    report.figures.append(
        Figure("append returned → event seen, 99th percentile", "ms", worst, Target(15.0, at_least=False))
    )
    return report


def _follow(name: str, directory: Path, events: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds from each append's call, and from its return, to the event elsewhere."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    peer = PEERS[name](directory)
    versions = iter(range(1 << 62))
    peer.append_one(_item(_LOOK), next(versions))
    follower = context.Process(target=_work, args=(name, directory, events, theirs), daemon=True)
    follower.start()
    deadline = time.monotonic() + _START_SECONDS
    while not ours.poll(0.05):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name}: the follower saw nothing")
        peer.append_one(_item(_LOOK), next(versions))
    ours.recv()
    times = [_append_at(peer, number, versions) for number in range(events)]
    seen = ours.recv()
    follower.join()
    peer.close()
    called = [1e3 * (at - times[number][0]) for number, at in enumerate(seen)]
    returned = [1e3 * max(0.0, at - times[number][1]) for number, at in enumerate(seen)]
    return called, returned


def _append_at(peer: Peer, number: int, versions: Iterator[int]) -> tuple[float, float]:
    """Append at a steady rate; return when the append was called and when it returned."""
    time.sleep(_EVERY_SECONDS)
    item, version = _item(b'{"number":%d}' % number), next(versions)
    before = time.perf_counter()
    peer.append_one(item, version)
    return before, time.perf_counter()


def _item(data: bytes) -> Item:
    return Item("account-1", "Deposited", os.urandom(16), data)


def _work(name: str, directory: Path, events: int, pipe: Connection) -> None:
    """Say when the first event came, then when each of the counted ones did."""
    peer = PEERS[name](directory)
    seen: list[float] = []
    looked = False
    for data in peer.follow():
        now = time.perf_counter()
        if b"look" in data:
            if not looked:
                looked = True
                pipe.send(None)
            continue
        seen.append(now)
        if len(seen) == events:
            break
    pipe.send(seen)
    os._exit(0)  # whatever still waits in the client waits for nothing
