"""A store in NATS beside nats-py doing the same work without evlog's promises, on one server.

nats-py publishes the same events in atomic batches of the same size, with an id and a type in the headers.
Its ids are known for two minutes, and it counts no versions and no positions. Both are synced on return.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import evlog
from evlog import EventStore, NewEvent
from tests.benchmarks.dataset import Batch, Dataset, Item
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.peers.nats_jetstream import NatsJetStream
from tests.benchmarks.run import Run
from tests.support.server import read_address

_LEAST: Final = Target(0.7, at_least=True, over="nats-py")


def run(run: Run) -> Report:
    """Measure batches, single appends and scans, in turns."""
    report = Report("nats", f"evlog in NATS beside plain nats-py, {run.sizes.small:,} events")
    if (missing := NatsJetStream.how_to_get()) is not None:
        report.notes.append(f"skipped: {missing}")
        return report
    folder = run.fresh_directory("nats")
    with NatsJetStream.serve(folder):
        peer = NatsJetStream(folder)
        with evlog.open(f"nats://127.0.0.1:{read_address(folder)}/bench", create=True) as store:
            for size in (1000, 100):
                report.figures.append(_batches(run, store, peer, size))
            report.figures.append(_single(run, store, peer))
            columns = {"evlog": partial(_scan, store), "nats-py": partial(_scan, peer)}
            samples = take_turns(run.sizes.rounds, columns)
            report.figures.append(Figure("scan of all", "events/s", samples, _LEAST))
        peer.close()
    report.settings = {"nats": NatsJetStream.settings()}
    return report


def _scan(client: EventStore | NatsJetStream) -> float:
    found: list[int] = []
    work = client.scan if isinstance(client, NatsJetStream) else lambda: count(client.read_all())
    seconds = seconds_of(lambda: found.append(work()))
    return found[0] / seconds


def _append(store: EventStore, batch: Batch, *, has_ids: bool) -> None:
    store.append_many(
        [(stream, [NewEvent(type, data, id=id if has_ids else None)]) for stream, type, id, data in batch]
    )


def _batches(run: Run, store: EventStore, peer: NatsJetStream, size: int) -> Figure:
    dataset = Dataset(run.sizes.small, max(1, run.sizes.small // 50))
    ways: dict[str, Callable[[Batch], None]] = {
        "evlog": partial(_append, store, has_ids=False),
        "nats-py": peer.append,
        "evlog, ids given": partial(_append, store, has_ids=True),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    batches = dataset.batches(
        dataset.batch_count * (1 + (size == 100)), dataset.batch_count * (2 + (size == 100))
    )
    for number, whole in enumerate(batches):
        for at in range(0, len(whole), size):
            for name, append in list(ways.items())[:: 1 if number % 2 else -1]:
                samples[name].append(size / seconds_of(partial(append, whole[at : at + size])))
    return Figure(f"batches of {size:,}", "events/s", samples, _LEAST)


def _single(run: Run, store: EventStore, peer: NatsJetStream) -> Figure:
    versions = {"evlog": 0, "nats-py": 0}

    def append(name: str) -> None:
        version = versions[name]
        item = Item("account-1", "Deposited", b"", b'{"amount":10}')
        if name == "evlog":
            store.append(item.stream, [NewEvent(item.type, item.data)], version)
        else:
            peer.append_one(Item(item.stream, item.type, b"%d" % version, item.data), version)
        versions[name] = version + 1

    def sample(name: str) -> float:
        def work() -> None:
            for _ in range(20):
                append(name)

        return seconds_of(work) / 20 * 1e6

    columns = {name: partial(sample, name) for name in versions}
    return Figure("each single append", "µs", take_turns(max(2, run.sizes.single // 20), columns))
