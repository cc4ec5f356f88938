"""The library's published test cases, unchanged, with what they ask of a persistence module.

A test module adds to each of them where its stores are: `OnDirectory`, or the same for a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from eventsourcing.dcb.tests import DCBRecorderTestCase
from eventsourcing.persistence import Tracking
from eventsourcing.tests import application, persistence, projection
from eventsourcing.utils import Environment

import evlog
from evlog import Event, EventStore, NewEvent
from evlog.adapters import eventsourcing as adapter

MODULE = "evlog.adapters.eventsourcing"


class Stores:
    """Gives the addresses of stores that are not there yet, and closes what was opened."""

    new_address: Callable[[], str]

    @pytest.fixture(autouse=True)
    def _opened(self) -> Iterator[None]:
        self.opened: list[EventStore] = []
        yield
        for store in self.opened:
            store.close()

    def open(self) -> EventStore:
        store = evlog.open(self.new_address(), create=True)
        self.opened.append(store)
        return store

    def environment(self) -> dict[str, str]:
        return {"PERSISTENCE_MODULE": MODULE, "EVLOG_STORE": self.new_address()}


class OnDirectory(Stores):
    @pytest.fixture(autouse=True)
    def _addresses(self, memory_path: Path) -> None:
        self.new_address = lambda: str(memory_path / uuid4().hex)


class TextIds:
    """Mixed into a case: ids of aggregates are texts."""

    id_type = "text"

    def new_originator_id(self) -> UUID | str:
        return f"dog-{uuid4()}"


class Recorders(Stores):
    id_type: ClassVar[Any] = "uuid"
    kind: ClassVar[Any]

    def create_recorder(self) -> Any:
        return self.kind(self.open(), application="Kennel", originator_id_type=self.id_type)


class AggregateRecorder(Recorders, persistence.AggregateRecorderTestCase):
    kind = adapter.EvlogAggregateRecorder


class SnapshotRecorder(Recorders, persistence.AggregateRecorderTestCase):
    def create_recorder(self) -> Any:
        return adapter.EvlogAggregateRecorder(self.open(), application="Kennel", purpose="snapshots")


class ApplicationRecorder(Recorders, persistence.ApplicationRecorderTestCase[Any]):
    kind = adapter.EvlogApplicationRecorder

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TrackingRecorder(Recorders, persistence.TrackingRecorderTestCase):
    kind = adapter.EvlogTrackingRecorder


class ProcessRecorder(Recorders, persistence.ProcessRecorderTestCase):
    kind = adapter.EvlogProcessRecorder


class NonInterleavingNotificationIDs(Recorders, persistence.NonInterleavingNotificationIDsBaseCase):
    kind = adapter.EvlogApplicationRecorder


class SubclassOfTrackingRecorder(adapter.EvlogTrackingRecorder):
    pass


class Factory(Stores, persistence.InfrastructureFactoryTestCase[Any]):
    def setUp(self) -> None:
        self.env = Environment("TestCase", self.environment())
        super().setUp()

    def expected_factory_class(self) -> Any:
        return adapter.EvlogFactory

    def expected_aggregate_recorder_class(self) -> Any:
        return adapter.EvlogAggregateRecorder

    def expected_application_recorder_class(self) -> Any:
        return adapter.EvlogApplicationRecorder

    def expected_tracking_recorder_class(self) -> Any:
        return adapter.EvlogTrackingRecorder

    def tracking_recorder_subclass(self) -> Any:
        return SubclassOfTrackingRecorder

    def expected_process_recorder_class(self) -> Any:
        return adapter.EvlogProcessRecorder


class InEnvironment(Stores):
    """The process's environment says where applications are kept."""

    @pytest.fixture(autouse=True)
    def _environment(self, _addresses: None, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)


class ExampleApplication(InEnvironment, application.ExampleApplicationTestCase):
    expected_factory_topic = f"{MODULE}.factory:EvlogFactory"


@pytest.mark.filterwarnings("default:'log' is deprecated:DeprecationWarning")  # which the case looks for
class Application(InEnvironment, application.ApplicationTestCase):
    pass


class EventCounters(adapter.EvlogTrackingRecorder, projection.EventCountersView):
    """A read model in the store itself: it counts events, each appended with what was processed."""

    def get_created_event_counter(self) -> int:
        return self._count("Created")

    def get_subsequent_event_counter(self) -> int:
        return self._count("Subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._increment("Created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._increment("Subsequent", tracking)

    def _increment(self, type: str, tracking: Tracking) -> None:
        self.insert_tracking(tracking, [("counters", [NewEvent(type)])])

    def _count(self, type: str) -> int:
        def counted(state: dict[str, int], event: Event) -> dict[str, int]:
            return state | {event.type: state.get(event.type, 0) + 1}

        state = self.store.state("counters", counted, {}, snapshot="counters")
        return int(state.value.get(type, 0))


class View(Stores, projection.EventCountersViewTestCase):
    def construct_event_counters_view(self) -> EventCounters:
        return EventCounters(self.open(), application="eventcounters")


class AggregateProjection(InEnvironment, projection.AggregateEventCountersProjectionTestCase):
    view_class = EventCounters


class TaggedDecisionProjection(InEnvironment, projection.TaggedDecisionCountersProjectionTestCase):
    view_class = EventCounters
    env: ClassVar[dict[str, str]] = {"MAPPER_TOPIC": "eventsourcing.dcb.msgpack:MessagePackMapper"}


class EventSourcedProjection(InEnvironment, projection.EventSourcedProjectionTestCase):
    pass


class DCBRecorder(Stores, DCBRecorderTestCase):
    def test_append_read(self) -> None:
        self._test_append_read(adapter.EvlogDCBRecorder(self.open()))

    def test_append_subscribe(self) -> None:
        self._test_append_subscribe(adapter.EvlogDCBRecorder(self.open()))
