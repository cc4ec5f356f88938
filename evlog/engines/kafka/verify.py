"""Verifying a store in a topic: the local index as any directory, then the topic against it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import TopicPartition

from evlog.engines.kafka.client import is_end, is_transient, translate
from evlog.engines.kafka.records import Assembler
from evlog.errors import CorruptionError, StoreUnreachable
from evlog.model.filters import LogSelection
from evlog.model.history import HistoryPiece
from evlog.model.reports import DAMAGE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evlog.engine import Progress
    from evlog.engines.kafka.client import Client
    from evlog.files.engine import DirectoryEngine
    from evlog.model.events import Event
    from evlog.model.reports import VerifyReport


def verify(
    client: Client,
    index: DirectoryEngine,
    store_id: str,
    *,
    quick: bool,
    against: str | None,
    progress: Progress | None,
) -> VerifyReport:
    """Check the index; without `quick` also that the topic holds the same events."""
    report = index.verify(quick=quick, against=against, progress=progress)
    if quick:
        return report
    try:
        finding = _compare(client, index, store_id, report.position)
    except CorruptionError as error:
        finding = Finding("record", DAMAGE, client.address.topic, None, error.position, error.detail)
    return report if finding is None else report._replace(findings=(*report.findings, finding))


def _compare(client: Client, index: DirectoryEngine, store_id: str, to: int) -> Finding | None:
    """Return the first difference; what the source of a mirror has removed since is none."""
    indexed = index.read_all(LogSelection(to=to))
    ours = next(indexed, None)
    for event in _read_topic(client, store_id):
        if event.position > to:
            break
        if ours is not None and ours.position < event.position:
            break
        if ours is None or ours.position > event.position:
            continue  # removed since: the index has its id only
        if event != ours:
            detail = "the event in the topic is not the one in the local index"
            return Finding("record", DAMAGE, client.address.topic, None, event.position, detail)
        ours = next(indexed, None)
    if ours is None:
        return None
    detail = f"the topic lacks the event at position {ours.position}"
    return Finding("record", DAMAGE, client.address.topic, None, ours.position, detail)


def _read_topic(client: Client, store_id: str) -> Iterator[Event]:
    """Iterate over all events in the topic."""
    topic = client.address.topic
    seconds = client.address.timeout_seconds
    end = client.end(topic, seconds)
    assembler = Assembler(client.address.text, store_id, 0)
    consumer = client.make_consumer()
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        offset, deadline = 0, time.monotonic() + seconds
        while offset < end:
            message = consumer.poll(0.1)
            if message is None or (error := message.error()) is not None:
                if message is not None and is_end(error):
                    offset = message.offset()
                elif message is not None and not is_transient(error):
                    raise translate(error, client.address.text)
                elif time.monotonic() >= deadline:
                    raise StoreUnreachable(client.address.text, "no answer in time")
                continue
            deadline = time.monotonic() + seconds
            offset = message.offset() + 1
            headers = dict(message.headers() or ())
            done = assembler.feed(message.offset(), message.key(), message.value(), headers)
            if isinstance(done, HistoryPiece):
                yield from done.events
    finally:
        consumer.close()
