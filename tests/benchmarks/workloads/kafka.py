"""A store in Kafka beside confluent-kafka doing the same work without evlog's promises, on one broker.

confluent-kafka sends the same events in transactions of the same size, with the same headers. It knows no
versions or positions: it makes them up. Its consumer reads what it has sent; evlog reads its local index.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import uuid4

import evlog
from evlog import EventStore, NewEvent
from tests.benchmarks.dataset import Batch, Dataset
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.run import Run
from tests.support import kafka

_LEAST: Final = Target(0.7, at_least=True, over="confluent-kafka")
_SECONDS: Final = 30.0
_SILENT: Final = logging.getLogger(__name__)
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def run(run: Run) -> Report:
    """Measure batches, single appends and scans, in turns."""
    report = Report("kafka", f"evlog in Kafka beside plain confluent-kafka, {run.sizes.small:,} events")
    jars = kafka.maybe_jars()
    if jars is None:
        report.notes.append("skipped: Java 17 or Maven is not installed")
        return report
    folder = run.fresh_directory("kafka")
    with kafka.indexes_in(folder / "cache"), kafka.serving(jars, folder) as server:
        evlog.open(server.url("peer"), create=True).close()  # a topic with the same settings
        peer = Peer(f"127.0.0.1:{server.port}")
        with evlog.open(server.url("bench"), create=True) as store:
            for size in (1000, 100):
                report.figures.append(_batches(run, store, peer, size))
            report.figures.append(_single(run, store, peer))
            columns = {"evlog": partial(_scan, store), "confluent-kafka": partial(_scan, peer)}
            samples = take_turns(run.sizes.rounds, columns)
            report.figures.append(Figure("scan of all", "events/s", samples, _LEAST))
            report.settings = {"kafka": {"durability": store.capabilities.durability}}
    return report


class Peer:
    """The client alone."""

    def __init__(self, server: str) -> None:
        from confluent_kafka import Producer

        self._server = server
        self._positions = itertools.count(1)
        self._producer = Producer(
            {"bootstrap.servers": server, "transactional.id": "peer", "linger.ms": 0, "logger": _SILENT}
        )
        self._producer.list_topics(timeout=_SECONDS)
        self._producer.init_transactions(_SECONDS)

    def append(self, batch: Batch) -> None:
        """Send a batch as a transaction."""
        self._producer.begin_transaction()
        for stream, type, _, data in batch:
            place = b"%d" % next(self._positions)
            headers = {
                "Evlog-Position": place,
                "Evlog-Version": place,
                "Evlog-Stream": stream.encode(),
                "Evlog-Type": type.encode(),
                "Evlog-Id": str(uuid4()).encode(),
                "Evlog-Time": b"1764371000000000",
                "Evlog-Frame": place,
                "Evlog-Frame-Last": place,
                "Evlog-Content-Type": b"json",
            }
            self._producer.produce("peer", data, stream.encode(), 0, headers=headers)
        self._producer.commit_transaction(_SECONDS)

    def scan(self) -> int:
        """Read the whole topic with a new consumer; return how many records there are."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": self._server,
                "group.id": "peer",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                "logger": _SILENT,
            }
        )
        consumer.assign([TopicPartition("peer", 0, 0)])
        found = 0
        while (message := consumer.poll(_SECONDS)) is not None and message.error() is None:
            messages: list[Any] = [message, *consumer.consume(10_000, 0)]
            records = [each for each in messages if each.error() is None]
            found += sum(bool(each.value()) and bool(each.headers()) for each in records)
            if len(records) < len(messages):
                break
        consumer.close()
        return found


def _scan(client: EventStore | Peer) -> float:
    found: list[int] = []
    work = client.scan if isinstance(client, Peer) else lambda: count(client.read_all())
    seconds = seconds_of(lambda: found.append(work()))
    return found[0] / seconds


def _append(store: EventStore, batch: Batch) -> None:
    store.append_many([(stream, [NewEvent(type, data)]) for stream, type, _, data in batch])


def _ways(store: EventStore, peer: Peer) -> dict[str, Callable[[Batch], None]]:
    return {"evlog": partial(_append, store), "confluent-kafka": peer.append}


def _batches(run: Run, store: EventStore, peer: Peer, size: int) -> Figure:
    dataset = Dataset(run.sizes.small, max(1, run.sizes.small // 50))
    ways = _ways(store, peer)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for number, whole in enumerate(dataset.batches(0, dataset.batch_count)):
        for at in range(0, len(whole), size):
            for name, append in list(ways.items())[:: 1 if number % 2 else -1]:
                samples[name].append(size / seconds_of(partial(append, whole[at : at + size])))
    return Figure(f"batches of {size:,}", "events/s", samples, _LEAST)


def _single(run: Run, store: EventStore, peer: Peer) -> Figure:
    ways = _ways(store, peer)
    batch = next(iter(Dataset(run.sizes.small, 10).batches(0, 1)))
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(max(20, run.sizes.single)):
        for name, append in ways.items():
            one = batch[at % len(batch) :][:1]
            samples[name].append(1 / seconds_of(partial(append, one)))
    return Figure("single appends", "appends/s", samples)
