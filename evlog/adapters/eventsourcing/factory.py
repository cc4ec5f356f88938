"""What the library makes its recorders with, by the environment."""

from __future__ import annotations

from typing import Final, TypeVar

from eventsourcing.dcb.persistence import DCBInfrastructureFactory
from eventsourcing.persistence import InfrastructureFactory
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool

from evlog.adapters.eventsourcing.decisions import EvlogDCBRecorder
from evlog.adapters.eventsourcing.errors import translated
from evlog.adapters.eventsourcing.recorders import (
    EvlogAggregateRecorder,
    EvlogApplicationRecorder,
    EvlogProcessRecorder,
    EvlogRecorder,
    EvlogTrackingRecorder,
    OriginatorIdType,
)
from evlog.store import EventStore
from evlog.store import open as open_store

_R = TypeVar("_R", bound=EvlogRecorder)


class _CollectedStore(EventStore):
    """A store closed when nothing refers to it: the library drops factories whose recorders it keeps."""

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.close()


class EvlogFactory(
    InfrastructureFactory[EvlogTrackingRecorder], DCBInfrastructureFactory[EvlogTrackingRecorder]
):
    """Makes recorders on one store, which it opens, and closes in `close`.

    EVLOG_STORE           a directory, or the URL of a server
    CREATE_TABLE          false: do not create the store if there is none (default: true)
    ORIGINATOR_ID_TYPE    what ids of aggregates are when they are read: uuid (default) or text
    EVLOG_SYNC            always (default) or none, as `evlog.open` has it
    EVLOG_LOCK_TIMEOUT    seconds that an insertion waits for other writers (default: without a limit)

    Each may begin with the application's name in capitals and `_`, as all of the library's may.
    """

    EVLOG_STORE: Final = "EVLOG_STORE"
    EVLOG_SYNC: Final = "EVLOG_SYNC"
    EVLOG_LOCK_TIMEOUT: Final = "EVLOG_LOCK_TIMEOUT"
    ORIGINATOR_ID_TYPE: Final = "ORIGINATOR_ID_TYPE"
    CREATE_TABLE: Final = "CREATE_TABLE"

    aggregate_recorder_class = EvlogAggregateRecorder
    application_recorder_class = EvlogApplicationRecorder
    tracking_recorder_class = EvlogTrackingRecorder
    process_recorder_class = EvlogProcessRecorder

    @translated
    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        where = self.env.get(self.EVLOG_STORE)
        if not where:
            keys = " or ".join(self.env.create_keys(self.EVLOG_STORE))
            raise OSError(f"no store is given; set {keys} to a directory or a URL")
        sync = self.env.get(self.EVLOG_SYNC) or "always"
        if sync not in ("always", "none"):
            raise self._bad(self.EVLOG_SYNC, sync, "always or none")
        id_type = (self.env.get(self.ORIGINATOR_ID_TYPE) or "uuid").lower()
        if id_type not in ("uuid", "text"):
            raise self._bad(self.ORIGINATOR_ID_TYPE, id_type, "uuid or text")
        timeout = (self.env.get(self.EVLOG_LOCK_TIMEOUT) or "").strip()
        try:
            lock_timeout = float(timeout) if timeout else None
        except ValueError:
            raise self._bad(self.EVLOG_LOCK_TIMEOUT, timeout, "seconds") from None
        self.originator_id_type: OriginatorIdType = "uuid" if id_type == "uuid" else "text"
        creates = strtobool(self.env.get(self.CREATE_TABLE) or "yes")
        opened = open_store(
            where, create=creates, sync="none" if sync == "none" else "always", lock_timeout=lock_timeout
        )
        self.store: EventStore = _CollectedStore(opened.engine)

    @staticmethod
    def _bad(name: str, value: str, use: str) -> OSError:
        return OSError(f"{name} is {value!r} in the environment; use {use}")

    def aggregate_recorder(self, purpose: str = "events") -> EvlogAggregateRecorder:
        """Return a recorder of aggregates' events, or for example of their "snapshots"."""
        return self.aggregate_recorder_class(
            self.store, application=self.env.name, purpose=purpose, originator_id_type=self.originator_id_type
        )

    def application_recorder(self) -> EvlogApplicationRecorder:
        """Return a recorder of the class that APPLICATION_RECORDER_TOPIC names, if it names one."""
        return self._recorder(self.APPLICATION_RECORDER_TOPIC, self.application_recorder_class)

    def tracking_recorder(
        self, tracking_recorder_class: type[EvlogTrackingRecorder] | None = None
    ) -> EvlogTrackingRecorder:
        """Return a recorder of the given class, or of the one that TRACKING_RECORDER_TOPIC names."""
        base = self.tracking_recorder_class
        return self._recorder(self.TRACKING_RECORDER_TOPIC, base, tracking_recorder_class)

    def process_recorder(self) -> EvlogProcessRecorder:
        """Return a recorder of the class that PROCESS_RECORDER_TOPIC names, if it names one."""
        return self._recorder(self.PROCESS_RECORDER_TOPIC, self.process_recorder_class)

    def dcb_recorder(self) -> EvlogDCBRecorder:
        """Return a recorder of decisions with tags."""
        return EvlogDCBRecorder(self.store, application=self.env.name)

    def _recorder(self, topic_name: str, base: type[_R], given: type[_R] | None = None) -> _R:
        """Return a recorder of a class that is given, or that the environment names, or of the base class."""
        topic = self.env.get(topic_name)
        kind: type[_R] = given or (resolve_topic(topic) if topic else base)
        if not issubclass(kind, base):
            raise TypeError(f"{kind.__qualname__} is not a {base.__qualname__}; give a subclass of it")
        return kind(self.store, application=self.env.name, originator_id_type=self.originator_id_type)

    def close(self) -> None:
        """Close the store and end its subscriptions."""
        self.store.close()
