"""Records by key: a bucket of JetStream's key-value store, as any of its clients reads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from evlog.engines.keyed import Record
from evlog.engines.nats.connections import Connections
from evlog.engines.nats.jetstream import JetStream, WrongSequence, publish_one
from evlog.engines.nats.session import Lost, NoResponder
from evlog.engines.waiting import Pause
from evlog.errors import EventTooLarge, StoreNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlog.engines.nats.jetstream import Stored

_OPERATION: Final = "KV-Operation"
_DELETED: Final = (b"DEL", b"PURGE")
_HEX: Final = "x"  # how a part of a key after the store's id begins: the rest is the text's UTF-8 in hex


class Records:
    """The records of a store: `evlog.engines.keyed.KeyValue`."""

    engine = "nats"

    def __init__(
        self, connections: Connections, jetstream: JetStream, max_payload: int, make: Callable[[], None]
    ) -> None:
        self.address = connections.address.text
        self.jetstream = jetstream
        self._make = make  # makes the bucket: most stores never need one
        self._is_made = False
        self._prefix = f"$KV.{jetstream.stream.removeprefix('KV_')}."
        self._max_bytes = max_payload - 1024

    def get(self, key: tuple[str, ...]) -> Record | None:
        stored = self._last(self._subject(key))
        return None if stored is None or _is_deleted(stored) else Record(stored.data, stored.sequence)

    def put(self, key: tuple[str, ...], value: bytes, revision: int | None) -> int | None:
        """Write a record if the present one has this revision."""
        if len(value) > self._max_bytes:
            raise EventTooLarge(len(value), self._max_bytes)
        return self._replace(key, value, revision, b"")

    def delete(self, key: tuple[str, ...], revision: int) -> bool:
        """Delete a record if it has this revision."""
        return self._replace(key, b"", revision, b"KV-Operation: DEL\r\n") is not None

    def list(self, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Record]]:
        filter = f"{self._subject(prefix)}.>"
        last = self._last(filter)
        if last is None:
            return
        for stored in self.jetstream.scan(filter, 1, last.sequence):
            if not _is_deleted(stored):
                parts = stored.subject.removeprefix(self._prefix).split(".")
                key = (*parts[:2], *(bytes.fromhex(part[1:]).decode() for part in parts[2:]))
                yield key, Record(stored.data, stored.sequence)

    def _replace(
        self, key: tuple[str, ...], value: bytes, revision: int | None, headers: bytes
    ) -> int | None:
        subject = self._subject(key)
        if revision is None and not self._is_made:
            self._make()
            self._is_made = True
        pause = Pause(time.monotonic() + self.jetstream.connections.address.timeout_seconds)
        sent = False
        while True:
            present = self._last(subject) if revision is None or sent else None
            if sent and present is not None and present.data == value and present.sequence != revision:
                return present.sequence  # the answer to the last try was lost
            expected = revision
            if expected is None:
                if present is not None and not _is_deleted(present):
                    return None
                expected = 0 if present is None else present.sequence
            condition = b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % expected
            try:
                return publish_one(self.jetstream, subject, value, condition + headers)
            except WrongSequence:
                if not sent:
                    return None
                present = self._last(subject)
                is_ours = present is not None and present.data == value and present.sequence > expected
                return present.sequence if present is not None and is_ours else None
            except (Lost, NoResponder) as error:
                sent = sent or isinstance(error, Lost)
                self.jetstream.check_there()
                if not pause.take():
                    raise self.jetstream.connections.unreachable(error) from None

    def _last(self, filter: str) -> Stored | None:
        """Return the last record of a filter; None also if there is no bucket."""
        try:
            return self.jetstream.last(filter)
        except StoreNotFound:
            return None

    def _subject(self, key: tuple[str, ...]) -> str:
        return self._prefix + ".".join((*key[:2], *(_HEX + part.encode().hex() for part in key[2:])))


def _is_deleted(stored: Stored) -> bool:
    return stored.headers.get(_OPERATION) in _DELETED
