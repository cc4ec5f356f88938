"""Subscriptions and snapshots as records by key, for engines that have records with compare-and-set.

1. A record has a revision, which changes with the record. A change names the revision that its writer has
   read, so of two changes at the same time one is refused.
2. The checkpoint of a subscription and the lease of its run are one record. A run renews its lease. Another
   run watches the record: if it changes, the name is busy; if it does not for as long as a lease lasts, the
   lease has ended, and the second run changes the record, so that the first cannot save any more. No clock is
   compared with another machine's. Only `is_running` does so, which decides nothing. The thread that renews a
   lease also ends it: the end of a run does not wait for servers that do not answer.
3. A snapshot too large for one record is refused: it is derived, and the next fold reads all events.
4. A server knows a store by its name, and another store may be made under that name. `StoreRecords` has the
   store's id in each key, so no store's record is found, replaced or deleted as another store's.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol
from uuid import UUID
from weakref import ref

from evlog.engines.waiting import RELEASE_SECONDS
from evlog.errors import CorruptionError, EvlogError, SubscriptionBusy, Unsupported
from evlog.model.checkpoints import Checkpoint, ParkedEvent
from evlog.model.events import id_text, make_ids, now_ns
from evlog.model.filters import EventFilter
from evlog.model.reports import DAMAGE, Finding
from evlog.process.forks import register_fork_reset
from evlog.process.threads import without_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from evlog.model.events import Event

LEASE_SECONDS: Final = 10.0
"""For how long at most a killed run keeps its name."""

_END_SECONDS: Final = 2.0  # for how long the end of a run waits for a server that has answered so far

# What a record that another program has written raises when it is decoded.
_SENSELESS: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)

SUBSCRIPTION: Final = "subscription"
PARKED: Final = "parked"
SNAPSHOT: Final = "snapshot"


class Record(NamedTuple):
    """What is stored under a key."""

    value: bytes
    revision: int


class KeyValue(Protocol):
    """Records by key. A key is a tuple of texts, each any text that is not empty; the first is its kind."""

    @property
    def address(self) -> str:
        """The store's address, for errors."""

    @property
    def engine(self) -> str:
        """The engine's name, for errors."""

    def get(self, key: tuple[str, ...]) -> Record | None:
        """Return the last record of a key, never one that was replaced before the call."""

    def put(self, key: tuple[str, ...], value: bytes, revision: int | None) -> int | None:
        """Write a record durably if the present one has this revision (None: there is none).

        When the answer is lost, the engine finds out whether the record was written.

        Returns:
            the new revision; None if the present one is another.
        """

    def delete(self, key: tuple[str, ...], revision: int) -> bool:
        """Delete a record durably if it has this revision; return whether it had."""

    def list(self, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Record]]:
        """Iterate over all records whose keys begin with these parts."""


class StoreRecords:
    """The records of one store, among those of all stores that had its name. A `KeyValue`.

    Args:
        records: have the store's id after the kind in each key.
        check_store: raises StoreReplaced, StoreNotFound if the name is not this store's any more. Called
            after each look-up, and after a record is made: what is not found may be missing because the
            store is another one. A record with a known revision is this store's: its change needs no call.
    """

    def __init__(self, records: KeyValue, store_id: str, check_store: Callable[[], object]) -> None:
        self.address, self.engine = records.address, records.engine
        self._records = records
        self._store_id = store_id
        self._check_store = check_store

    def get(self, key: tuple[str, ...]) -> Record | None:
        record = self._records.get(self._own(key))
        self._check_store()
        return record

    def put(self, key: tuple[str, ...], value: bytes, revision: int | None) -> int | None:
        new = self._records.put(self._own(key), value, revision)
        if revision is None or new is None:
            self._check_store()
        return new

    def delete(self, key: tuple[str, ...], revision: int) -> bool:
        is_done = self._records.delete(self._own(key), revision)
        if not is_done:
            self._check_store()
        return is_done

    def list(self, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Record]]:
        found = [((key[0], *key[2:]), record) for key, record in self._records.list(self._own(prefix))]
        self._check_store()
        return iter(found)

    def _own(self, key: tuple[str, ...]) -> tuple[str, ...]:
        return key[0], self._store_id, *key[1:]


# --- subscriptions


class KeyedCheckpoint:
    """One named subscription. An `evlog.engine.CheckpointStore`."""

    def __init__(self, records: KeyValue, name: str, lease_seconds: float | None = None) -> None:
        self._records = records
        self._name = name
        self._key = (SUBSCRIPTION, name)
        self._lease_seconds = LEASE_SECONDS if lease_seconds is None else lease_seconds
        self._mutex = threading.Lock()  # guards the five below: a thread renews the lease
        self._document: dict[str, Any] = {}
        self._revision: int | None = None
        self._holder = ""  # this run's; "": there is none
        self._is_lost = False
        self._is_away = False  # the last write failed: no server answers
        self._pid = 0
        self._ended: threading.Event | None = None
        self._renewal: threading.Thread | None = None
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Leave the run to the parent: a forked child saves nothing of it."""
        self._mutex = threading.Lock()
        self._is_lost = True

    def acquire(self) -> None:
        """Begin a run or a change; wait until the lease of a run that was killed has ended.

        Raises:
            SubscriptionBusy: the lease is renewed.
        """
        record, document = self._unheld()
        with self._mutex:
            for name in ("holder", "until_us"):
                document.pop(name, None)  # another run's, which has ended
            self._document, self._revision = document, None if record is None else record.revision
            self._holder, self._pid, self._is_lost = make_ids(1)[0].hex(), os.getpid(), False
            try:
                self._write(document)
            except BaseException:
                self._holder = ""
                raise
        self._ended = threading.Event()
        self._renewal = threading.Thread(
            target=_keep_lease,
            args=(ref(self), self._ended, self._lease_seconds / 4),
            name=f"evlog lease {self._name}",
            daemon=True,
        )
        without_signals(self._renewal.start)

    def release(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None or self._pid != os.getpid():
            return
        ended.set()
        assert self._renewal is not None
        # Else the next run of this name in this program would meet the last write of this one.
        self._renewal.join(RELEASE_SECONDS if self._is_away else _END_SECONDS)

    def end_lease(self) -> None:
        """Free the name. If no server answers, the lease ends by itself."""
        with self._mutex:
            self._holder = ""
            if self._is_lost or self._is_away:
                return
            try:
                if "position" in self._document:
                    self._records.put(self._key, _encode(self._document), self._revision)
                elif self._revision is not None:
                    self._records.delete(self._key, self._revision)
            except EvlogError:
                pass

    def is_running(self) -> bool:
        """Return whether a run holds it now, here or elsewhere, by this machine's clock."""
        document = _document(self._records.get(self._key))
        return bool(document.get("holder")) and bool(document["until_us"] > now_ns() // 1000)

    def load(self) -> Checkpoint | None:
        return self.decode(self._records.get(self._key))

    def decode(self, record: Record | None) -> Checkpoint | None:
        """Return the checkpoint in a record of this subscription, if there is one. Raises CorruptionError."""
        document = _document(record)
        if "position" not in document:
            return None
        try:
            kept, id = document["filter"], document["id"]
            return Checkpoint(
                int(document["position"]),
                None if id is None else UUID(id).bytes,
                None if kept is None else EventFilter.of_object(kept),
                int(document["time_us"]),
            )
        except _SENSELESS as error:
            reason = f"the record of subscription {self._name!r} cannot be read ({error})"
            raise CorruptionError(self._records.address, None, reason) from None

    def create(self, checkpoint: Checkpoint) -> None:
        self._drop_parked()
        self.save(checkpoint)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, durably. Raises SubscriptionBusy: another run has taken the name."""
        filter, id = checkpoint.filter, checkpoint.event_id
        document = {
            "position": checkpoint.position,
            "id": None if id is None else id_text(id),
            "filter": None if filter is None else filter.as_object(),
            "time_us": now_ns() // 1000,
        }
        with self._mutex:
            if self._is_lost:
                raise SubscriptionBusy(self._name)
            self._write(document)

    def sync(self) -> None:
        """Return at once: `save` is durable."""

    def begin(self, position: int) -> NoReturn:  # noqa: ARG002
        """Refuse: there are no transactions that a caller could write in, too."""
        raise Unsupported(self._records.engine, "transactions of a subscription")

    def end(self, error: BaseException | None) -> None:
        """Do nothing: no transaction begins."""

    def delete(self) -> None:
        self._drop_parked()
        with self._mutex:
            self._write({})

    def parked(self) -> list[ParkedEvent]:
        found = [self._parked_in(key, record) for key, record in self._records.list((PARKED, self._name))]
        return [place for _, place in sorted(found, key=lambda each: (each[0], each[1].position))]

    def _parked_in(self, key: tuple[str, ...], record: Record) -> tuple[int, ParkedEvent]:
        """Return a parked event after the time of its first parking. Raises CorruptionError."""
        try:
            each = {**json.loads(record.value)}
            numbers = [int(each[name]) for name in ("first_us", "position", "version", "attempts", "time_us")]
            first_us, position, version, attempts, time_us = numbers
            place = ParkedEvent(
                position,
                each["stream"],
                version,
                each["type"],
                UUID(each["id"]),
                each["error"],
                attempts,
                time_us,
            )
        except _SENSELESS as error:
            reason = f"the event that subscription {self._name!r} parked at {key[2]} cannot be read ({error})"
            raise CorruptionError(self._records.address, None, reason) from None
        return first_us, place

    def park(self, event: Event, error: str, attempts: int) -> None:
        key, now_us = (PARKED, self._name, str(event.position)), now_ns() // 1000
        while True:
            before = self._records.get(key)
            first_us = now_us if before is None else self._parked_in(key, before)[0]
            document = {
                "position": event.position,
                "stream": event.stream,
                "version": event.version,
                "type": event.type,
                "id": id_text(event.id_bytes),
                "error": error,
                "attempts": attempts,
                "time_us": now_us,
                "first_us": first_us,
            }
            revision = None if before is None else before.revision
            if self._records.put(key, _encode(document), revision) is not None:
                return

    def unpark(self, position: int) -> None:
        key = (PARKED, self._name, str(position))
        while (record := self._records.get(key)) is not None:
            if self._records.delete(key, record.revision):
                return

    def _drop_parked(self) -> None:
        for key, _ in list(self._records.list((PARKED, self._name))):
            self.unpark(int(key[2]))

    def _unheld(self) -> tuple[Record | None, dict[str, Any]]:
        """Return the record and its document once no run holds it. Raises SubscriptionBusy."""
        record = self._records.get(self._key)
        document = _document(record)
        deadline = time.monotonic() + self._lease_seconds
        while document.get("holder") and time.monotonic() < deadline:
            time.sleep(self._lease_seconds / 40)
            seen, record = record, self._records.get(self._key)
            document = _document(record)
            if record != seen and document.get("holder"):
                raise SubscriptionBusy(self._name)
        return record, document

    def _write(self, document: dict[str, Any]) -> None:
        """Replace the record, with the lease of this run. The caller has the mutex."""
        until_us = now_ns() // 1000 + int(self._lease_seconds * 1_000_000)
        value = _encode(document | {"holder": self._holder, "until_us": until_us})
        try:
            revision = self._records.put(self._key, value, self._revision)
            if revision is None:
                present = self._records.get(self._key)
                if present is not None and _document(present).get("holder") == self._holder:
                    # This run's, of a renewal that was given up before its answer came.
                    revision = self._records.put(self._key, value, present.revision)
        except EvlogError:
            self._is_away = True
            raise
        self._is_away = False
        if revision is None:
            self._is_lost = True
            raise SubscriptionBusy(self._name)
        self._document, self._revision = document, revision

    def renew(self) -> bool:
        """Renew the lease; return False if another run has the name."""
        with self._mutex:
            try:
                self._write(self._document)
            except SubscriptionBusy:
                return False  # the run gets SubscriptionBusy when it saves
            except EvlogError:
                pass  # tried again; if it fails until then, the lease ends
        return True


def _keep_lease(run: ref[KeyedCheckpoint], ended: threading.Event, seconds: float) -> None:
    """Renew the lease of a run until it ends, or a program has dropped it without `close`; then end it."""
    while not ended.wait(seconds):
        checkpoint = run()
        if checkpoint is None or not checkpoint.renew():
            return
        del checkpoint  # not held while this waits
    checkpoint = run()
    if checkpoint is not None:
        checkpoint.end_lease()


def checkpoint_names(records: KeyValue) -> list[str]:
    """Return the names of all subscriptions, sorted."""
    return [name for name, _ in _kept(records)]


def checkpoints(records: KeyValue) -> Iterator[tuple[str, Checkpoint | None]]:
    """Iterate over all subscriptions by name."""
    return ((name, KeyedCheckpoint(records, name).decode(record)) for name, record in _kept(records))


def check_checkpoints(records: KeyValue, head: Callable[[], int]) -> list[Finding]:
    """Return a finding for each checkpoint that cannot be read, or is beyond the end of the log.

    Args:
        head: returns where the log ends. Called after the checkpoints are read: they go on meanwhile.
    """
    findings, places = list[Finding](), dict[str, int]()
    for name, record in _kept(records):
        try:
            place = KeyedCheckpoint(records, name).decode(record)
        except CorruptionError as error:
            findings.append(Finding("checkpoint", DAMAGE, "", None, None, error.detail))
        else:
            places[name] = 0 if place is None else place.position
    end = head() if places else 0
    for name, position in places.items():
        if position > end:
            detail = f"subscription {name} is at position {position}, beyond the end of the log"
            findings.append(Finding("checkpoint", DAMAGE, "", None, None, detail))
    return findings


def _kept(records: KeyValue) -> list[tuple[str, Record]]:
    found = records.list((SUBSCRIPTION,))
    return sorted((key[1], record) for key, record in found if "position" in _document(record))


def _document(record: Record | None) -> dict[str, Any]:
    """Return what is in the record of a subscription.

    If another program has changed the record, its position is a text. So the checkpoint counts as damaged,
    not as missing, and can be reset or deleted.
    """
    if record is None:
        return {}
    try:
        document = {**json.loads(record.value)}
        document["until_us"] = int(document.get("until_us", 0))
        return document
    except _SENSELESS:
        return {"position": "damaged"}


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


# --- snapshots


class KeyedSnapshot:
    """One snapshot. An `evlog.engine.SnapshotStore`."""

    def __init__(self, records: KeyValue, name: str, stream: str | None) -> None:
        self._records = records
        self._key = (SNAPSHOT, name) if stream is None else (SNAPSHOT, name, stream)

    def load(self) -> bytes | None:
        record = self._records.get(self._key)
        return None if record is None else record.value

    def save(self, content: bytes, before: bytes | None) -> bool:
        """Replace the content if it is still `before`; else return False."""
        record = self._records.get(self._key)
        if (None if record is None else record.value) != before:
            return False
        return self._records.put(self._key, content, None if record is None else record.revision) is not None

    def delete(self) -> bool:
        was_there = False
        while (record := self._records.get(self._key)) is not None:
            was_there = True
            if self._records.delete(self._key, record.revision):
                break
        return was_there


def snapshot_names(records: KeyValue) -> list[tuple[str, str | None]]:
    """Return the name and the stream of each snapshot, sorted by name."""
    keys = [key for key, _ in records.list((SNAPSHOT,))]
    return sorted(
        ((key[1], key[2] if len(key) > 2 else None) for key in keys),
        key=lambda pair: (pair[0], pair[1] or ""),
    )


# --- the methods of engines


class KeepsSubscriptions:
    """The methods of an engine that keeps its subscriptions as records. A base class, without state."""

    @property
    def records(self) -> KeyValue:
        """The records of the store. Raises StoreClosed."""
        raise NotImplementedError

    def checkpoint(self, name: str) -> KeyedCheckpoint:
        return KeyedCheckpoint(self.records, name)

    def checkpoint_names(self) -> list[str]:
        return checkpoint_names(self.records)


class KeepsRecords(KeepsSubscriptions):
    """The same for an engine that keeps its snapshots as records, too."""

    def snapshot(self, name: str, stream: str | None) -> KeyedSnapshot:
        return KeyedSnapshot(self.records, name, stream)

    def snapshot_names(self) -> list[tuple[str, str | None]]:
        return snapshot_names(self.records)
