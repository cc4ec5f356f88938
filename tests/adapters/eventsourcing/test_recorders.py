"""What evlog's recorders promise beyond the library's published tests."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
from eventsourcing.persistence import (
    DataError,
    InfrastructureFactory,
    IntegrityError,
    InterfaceError,
    OperationalError,
    StoredEvent,
    Tracking,
)
from eventsourcing.utils import Environment
from hypothesis import given, strategies

import evlog
from evlog import Event, EventStore, NewEvent
from evlog.adapters.eventsourcing import (
    EvlogAggregateRecorder,
    EvlogApplicationRecorder,
    EvlogDCBRecorder,
    EvlogFactory,
    EvlogProcessRecorder,
    EvlogTrackingRecorder,
)
from evlog.files.disk.file_lock import FileLock
from evlog.files.format.paths import lock_path
from evlog.testing.base import in_threads
from tests.support.helpers import small_store

MODULE = "evlog.adapters.eventsourcing"


def stored(id: UUID | str, *versions: int, state: bytes = b'{"a":1}') -> list[StoredEvent]:
    return [StoredEvent(id, version, "kennel:Dog.Event", state) for version in versions]


def versions(recorder: EvlogAggregateRecorder, id: UUID | str, **bounds: Any) -> list[int]:
    return [event.originator_version for event in recorder.select_events(id, **bounds)]


@pytest.fixture
def recorder(store: EventStore) -> EvlogApplicationRecorder:
    return EvlogApplicationRecorder(store, application="Kennel")


# --- names and content


def test_streams_are_named_for_application_and_aggregate(store: EventStore) -> None:
    recorder = EvlogProcessRecorder(store, application="Dog-School")
    snapshots = EvlogAggregateRecorder(store, application="Dog-School", purpose="snapshots")
    id = uuid4()
    recorder.insert_events(stored(id, 1), tracking=Tracking("Kennel", 7))
    snapshots.insert_events(stored(id, 1))
    EvlogDCBRecorder(store, application="Dog-School").append([DCBEvent("Trained", b"{}", ["dog:1"])])
    names = [info.stream for info in store.streams()]
    others = ["Dog_School.decisions", f"Dog_School.snapshots-{id}", "Dog_School.tracking-Kennel"]
    assert names == [f"Dog_School-{id}", *others]


@pytest.mark.parametrize(
    ("state", "content_type"),
    [
        (b'{"a": 1}', "json"),
        (b'{"a":\n1}', "binary"),
        (b'{"a":NaN}', "binary"),
        (b'{"a":"\xff"}', "binary"),
        (b"[1]", "binary"),
        (b"\x81\xa1a\x01", "binary"),
        (b"", "binary"),
    ],
)
def test_a_state_is_kept_byte_for_byte(
    recorder: EvlogApplicationRecorder, state: bytes, content_type: str
) -> None:
    id = uuid4()
    recorder.insert_events([*stored(id, 1, state=state), *stored(id, 2)])
    assert [event.state for event in recorder.select_events(id)] == [state, b'{"a":1}']
    assert [event.content_type for event in recorder.store.read_all()] == [content_type, "json"]


def test_applications_in_one_store_do_not_see_each_other(store: EventStore) -> None:
    one, other = (EvlogApplicationRecorder(store, application=name) for name in ("One", "Other"))
    id = uuid4()
    assert one.insert_events(stored(id, 1, 2)) == [1, 2]
    assert other.insert_events(stored(id, 1)) == [3]
    assert one.insert_events(stored(id, 3)) == [4]
    assert [n.id for n in one.select_notifications(None, 10)] == [1, 2, 4]
    assert [n.id for n in one.select_notifications(2, 1, inclusive_of_start=False)] == [4]
    assert one.max_notification_id() == 4
    assert other.max_notification_id() == 3
    for _ in range(20):
        store.append("others", [NewEvent("Happened")])
    assert one.max_notification_id() == 4


def test_pages_of_notifications_have_every_event_once(store: EventStore) -> None:
    recorder = EvlogApplicationRecorder(store, application="Kennel")
    ids: list[int] = []
    for number in range(60):
        if number % 3:
            ids += recorder.insert_events(stored(uuid4(), 1)) or []
        else:
            store.append("others", [NewEvent("Happened")] * (number % 4 + 1))
    for limit in (1, 3, 10, 100):
        start, found = 1, []
        while page := recorder.select_notifications(start, limit):
            found += [notification.id for notification in page]
            start = found[-1] + 1
        assert found == ids


def test_what_was_read_ahead_does_not_hide_what_happened_since(store: EventStore) -> None:
    recorder = EvlogApplicationRecorder(store, application="Kennel")
    recorder.insert_events(stored(uuid4(), *range(1, 41)))

    def page(start: int) -> dict[int, bytes]:
        return {found.id: found.state for found in recorder.select_notifications(start, 10)}

    assert [*page(1), *page(11)] == list(range(1, 21))
    store.redact(25, reason="a test")
    assert (page(21)[24], page(21)[25]) == (b'{"a":1}', b"null")
    assert list(page(31)) == list(range(31, 41))
    assert page(41) == {}
    recorder.insert_events(stored(uuid4(), 1))
    assert list(page(41)) == [42]


def test_an_aggregate_with_a_redacted_event_is_rebuilt_only_from_behind_it(store: EventStore) -> None:
    recorder = EvlogApplicationRecorder(store, application="Kennel")
    id = uuid4()
    recorder.insert_events(stored(id, 1, 2, 3, 4))
    store.redact(2, reason="a test")
    with pytest.raises(DataError, match=r"version 2 of 'Kennel-.* was redacted"):
        recorder.select_events(id)
    assert versions(recorder, id, gt=2) == [3, 4]


def test_pages_of_large_events_are_whole_though_little_is_read_ahead(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.adapters.eventsourcing.selection._AHEAD_BYTES", 1000)
    recorder = EvlogApplicationRecorder(store, application="Kennel")
    for _ in range(7):
        recorder.insert_events(stored(uuid4(), 1, 2, 3, 4, 5, state=b"x" * 300))
    for limit in (2, 3, 10):
        starts = range(1, 36, limit)
        pages = [[n.id for n in recorder.select_notifications(start, limit)] for start in starts]
        assert pages == [list(range(start, min(36, start + limit))) for start in starts]
        assert len(recorder._pages._kept.events) <= max(limit, 5)


def test_read_ahead_counts_for_a_while(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = EvlogApplicationRecorder(store, application="Kennel")
    recorder.insert_events(stored(uuid4(), *range(1, 41)))
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    reads: list[int] = []
    read_all = store.read_all

    def counted(after: int, *arguments: Any, **options: Any) -> Iterator[Event]:
        reads.append(after)
        return read_all(after, *arguments, **options)

    monkeypatch.setattr(store, "read_all", counted)
    for start in (1, 11, 21, 31):
        assert len(recorder.select_notifications(start, 10)) == 10
    assert reads == [0, 10]
    now[0] = 1.0
    assert len(recorder.select_notifications(21, 10)) == 10
    assert reads == [0, 10, 20]


# --- versions


def test_versions_of_an_aggregate_are_those_of_its_stream(recorder: EvlogApplicationRecorder) -> None:
    id = uuid4()
    recorder.insert_events(stored(id, 1))
    recorder.insert_events(stored(id, 2, 3))
    assert [event.version for event in recorder.store.read(f"Kennel-{id}")] == versions(recorder, id)
    assert [event.metadata for event in recorder.store.read(f"Kennel-{id}", 2)] == [{}, {}]


def test_an_aggregate_may_begin_at_0(recorder: EvlogApplicationRecorder) -> None:
    id = uuid4()
    for version in range(5):
        recorder.insert_events(stored(id, version))
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored(id, 4))
    recorder.insert_events(stored(id, 5, 6))
    assert versions(recorder, id) == list(range(7))
    assert versions(recorder, id, gt=1, lte=4) == [2, 3, 4]
    assert versions(recorder, id, gt=1, desc=True, limit=2) == [6, 5]
    assert versions(recorder, id, lte=3, desc=True, limit=2) == [3, 2]
    assert versions(recorder, id, gt=-1) == list(range(7))


@pytest.mark.parametrize("wrong", [(3,), (5,), (6, 7), (4, 6), (4, 3), (4, 4), (1,), (0,), (-1,)])
def test_only_the_next_version_can_be_inserted(
    recorder: EvlogApplicationRecorder, wrong: tuple[int, ...]
) -> None:
    id = uuid4()
    recorder.insert_events(stored(id, 1, 2, 3))
    with pytest.raises(IntegrityError):
        recorder.insert_events([*stored(uuid4(), 1), *stored(id, *wrong)])
    assert recorder.max_notification_id() == 3


def test_an_aggregate_cannot_begin_behind_1(recorder: EvlogApplicationRecorder) -> None:
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored(uuid4(), 2))


@pytest.mark.parametrize("first", [0, 1])
def test_a_deleted_aggregate_can_begin_again(recorder: EvlogApplicationRecorder, first: int) -> None:
    id = uuid4()
    recorder.insert_events(stored(id, first, first + 1, first + 2))
    recorder.store.delete_stream(f"Kennel-{id}")
    assert versions(recorder, id) == []
    recorder.insert_events(stored(id, first, first + 1))
    recorder.insert_events(stored(id, first + 2))
    assert versions(recorder, id) == [first, first + 1, first + 2]
    assert versions(recorder, id, gt=first) == [first + 1, first + 2]
    # Version 7 would leave a gap, which is not noticed: evlog's version would be 7. No writer has got to it.
    for wrong in (0, 1, 2, first + 2, 4 + first, 5 + first, 8):
        with pytest.raises(IntegrityError):
            recorder.insert_events(stored(id, wrong))


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_writers_of_one_version_one_is_refused(store: EventStore, first: int) -> None:
    """Also where the first try, at the version of evlog's that is the same, fails for both."""
    id = uuid4()
    recorders = [EvlogApplicationRecorder(store) for _ in range(4)]
    recorders[0].insert_events(stored(id, first))
    refused = []

    def insert(recorder: EvlogApplicationRecorder) -> None:
        for version in range(first + 1, first + 26):
            try:
                recorder.insert_events(stored(id, version))
            except IntegrityError:
                refused.append(version)

    in_threads(partial(insert, recorder) for recorder in recorders)
    assert versions(recorders[0], id) == list(range(first, first + 26))
    assert len(refused) == 75


@given(strategies.lists(strategies.integers(0, 9), max_size=12), strategies.data())
def test_snapshots_may_come_in_any_order(order: list[int], data: strategies.DataObject) -> None:
    """Compared with a plain dict of versions."""
    with tempfile.TemporaryDirectory() as folder, small_store(f"{folder}/store", sync="none") as store:
        recorder = EvlogAggregateRecorder(store, purpose="snapshots")
        id = uuid4()
        known: dict[int, bytes] = {}
        for number, version in enumerate(order):
            state = b"%d" % number
            if version in known:
                with pytest.raises(IntegrityError):
                    recorder.insert_events(stored(id, version, state=state))
            else:
                recorder.insert_events(stored(id, version, state=state))
                known[version] = state
        bound = strategies.none() | strategies.integers(-1, 10)
        for _ in range(4):
            gt, lte, limit = (
                data.draw(bound),
                data.draw(bound),
                data.draw(strategies.none() | strategies.integers(0, 4)),
            )
            desc = data.draw(strategies.booleans())
            expected = sorted(
                (v for v in known if (gt is None or v > gt) and (lte is None or v <= lte)), reverse=desc
            )
            found = recorder.select_events(id, gt=gt, lte=lte, desc=desc, limit=limit)
            assert [(event.originator_version, event.state) for event in found] == [
                (version, known[version]) for version in expected[:limit]
            ]


def test_the_last_snapshot_is_found_without_reading_the_others(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = EvlogAggregateRecorder(store, purpose="snapshots")
    id = uuid4()
    for version in range(1, 200):
        recorder.insert_events(stored(id, version))
    taken: list[Event] = []
    read = store.read

    def counting(*arguments: Any, **options: Any) -> Iterator[Event]:
        for event in read(*arguments, **options):
            taken.append(event)
            yield event

    monkeypatch.setattr(store, "read", counting)
    assert versions(recorder, id, desc=True, limit=1) == [199]
    assert len(taken) == 1
    assert versions(recorder, id, desc=True, limit=1, lte=190) == [190]
    assert len(taken) == 1 + 10


# --- tracking


def test_events_and_what_was_processed_are_one_append(store: EventStore) -> None:
    recorder = EvlogProcessRecorder(store, application="Billing")
    id = uuid4()
    assert recorder.insert_events(stored(id, 1, 2), tracking=Tracking("Shop", 5)) == [1, 2]
    for version, notification_id in ((2, 6), (3, 5), (3, 4)):
        with pytest.raises(IntegrityError):
            recorder.insert_events(stored(id, version), tracking=Tracking("Shop", notification_id))
    assert versions(recorder, id) == [1, 2]
    assert recorder.max_tracking_id("Shop") == 5
    recorder.insert_events(stored(id, 3), tracking=Tracking("Shop", 6))
    assert (recorder.max_tracking_id("Shop"), store.head) == (6, 5)


def test_each_notification_is_processed_once_by_however_many(store: EventStore) -> None:
    """Each of four processes every notification; a recorder's memory of the others' work is always old."""
    recorders = [EvlogProcessRecorder(store, application="Billing") for _ in range(4)]
    done: list[int] = []

    def process(recorder: EvlogProcessRecorder) -> None:
        for number in range(1, 31):
            try:
                recorder.insert_events(stored(uuid4(), 1), tracking=Tracking("Shop", number))
                done.append(number)
            except IntegrityError:
                pass

    in_threads(partial(process, recorder) for recorder in recorders)
    assert len(set(done)) == len(done) == len(recorders[0].select_notifications(1, 100))
    assert max(done) == recorders[0].max_tracking_id("Shop") == 30


def test_what_is_processed_between_two_looks_is_not_processed_again(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (EvlogProcessRecorder(store, application="Billing") for _ in range(2))
    stream_version = EventStore.stream_version

    def overtaken(store: EventStore, stream: str) -> int:
        monkeypatch.undo()
        other.insert_events(stored(uuid4(), 1), tracking=Tracking("Shop", 1))
        return stream_version(store, stream)

    monkeypatch.setattr(EventStore, "stream_version", overtaken)
    with pytest.raises(IntegrityError):
        one.insert_events(stored(uuid4(), 1), tracking=Tracking("Shop", 1))
    assert len(one.select_notifications(1, 100)) == 1


def test_a_wait_ends_when_another_recorder_has_processed(store: EventStore) -> None:
    reader, writer = (EvlogTrackingRecorder(store, application="View") for _ in range(2))
    thread = threading.Thread(target=reader.wait, args=("Shop", 2, 60.0))
    thread.start()
    writer.insert_tracking(Tracking("Shop", 1))
    assert thread.is_alive()
    writer.insert_tracking(Tracking("Shop", 2), [("view", [NewEvent("Counted", {"n": 2})])])
    thread.join(60)
    assert not thread.is_alive()
    assert [event.type for event in store.read("view")] == ["Counted"]


# --- subscriptions


@pytest.mark.parametrize("by_store", [False, True])
def test_a_waiting_subscription_ends_at_once(store: EventStore, by_store: bool) -> None:
    recorder = EvlogApplicationRecorder(store)
    recorder.insert_events(stored(uuid4(), 1))
    subscription = recorder.subscribe()
    assert next(subscription).id == 1
    waiting, ended = threading.Event(), []

    def take() -> None:
        waiting.set()
        try:
            next(subscription)
        except (StopIteration, InterfaceError) as error:
            ended.append(type(error))

    thread = threading.Thread(target=take)
    thread.start()
    assert waiting.wait(60)
    if by_store:
        store.close()
    else:
        subscription.stop()
    thread.join(60)
    assert ended == [InterfaceError if by_store else StopIteration]


def test_a_subscription_skips_what_is_not_the_applications(store: EventStore) -> None:
    recorder = EvlogProcessRecorder(store, application="Shop")
    recorder.insert_events(stored(uuid4(), 1), tracking=Tracking("Up", 1))
    store.append("others", [NewEvent("kennel:Dog.Event")])
    recorder.insert_events(stored(uuid4(), 1), tracking=Tracking("Up", 2))
    with recorder.subscribe(topics=["kennel:Dog.Event"]) as subscription:
        assert [next(subscription).id, next(subscription).id] == [1, 4]


# --- decisions with tags


def condition(*items: DCBQueryItem, after: int | None = None) -> DCBAppendCondition:
    return DCBAppendCondition(DCBQuery(list(items)), after)


def test_a_condition_is_about_the_applications_own_events(store: EventStore) -> None:
    recorder, other = (EvlogDCBRecorder(store, application=name) for name in ("One", "Other"))
    event = DCBEvent("Booked", b"{}", ["room:1"])
    recorder.append([event])
    for _ in range(3):
        other.append([event])
    store.append("others", [NewEvent("Booked")])
    everything = condition(after=1)
    assert recorder.append([DCBEvent("Other", b"{}")], everything) == 6
    with pytest.raises(IntegrityError):
        recorder.append([event], everything)
    only = condition(DCBQueryItem(["Booked"], ["room:1"]), after=1)
    assert recorder.append([event], only) == 7
    with pytest.raises(IntegrityError):
        recorder.append([event], only)
    with pytest.raises(IntegrityError):
        recorder.append([event], condition(DCBQueryItem(tags=["room:1"])))


def test_items_of_a_query_give_each_event_once_and_in_order(store: EventStore) -> None:
    recorder = EvlogDCBRecorder(store)
    for number in range(30):
        recorder.append([DCBEvent(f"T{number % 3}", b"{}", [f"a:{number % 2}", f"b:{number % 5}"])])
    query = DCBQuery([DCBQueryItem(tags=["a:1"]), DCBQueryItem(["T0", "T1"]), DCBQueryItem(["T2"], ["b:3"])])
    expected = [n + 1 for n in range(30) if n % 2 == 1 or n % 3 < 2 or n % 5 == 3]
    response = recorder.read(query)
    assert [event.position for event in response] == expected
    assert response.head == 30
    limited = recorder.read(query, after=expected[3], limit=3)
    assert [event.position for event in limited] == expected[4:7]
    assert limited.head == expected[6]
    with recorder.subscribe(query) as subscription:
        assert [next(subscription).position for _ in expected] == expected


def test_ten_threads_take_two_places(store: EventStore) -> None:
    """Each reads the course, and enrols on condition that it is as it was read."""
    query = DCBQuery([DCBQueryItem(["Enrolled"], ["course:c1"])])

    def enrol(student: int) -> None:
        recorder = EvlogDCBRecorder(store, application="School")
        while True:
            response = recorder.read(query)
            if len(list(response)) >= 2:
                return
            try:
                recorder.append(
                    [DCBEvent("Enrolled", b"{}", ["course:c1", f"student:{student}"])],
                    DCBAppendCondition(query, response.head),
                )
            except IntegrityError:
                continue
            return

    in_threads(partial(enrol, number) for number in range(10))
    assert len(list(EvlogDCBRecorder(store, application="School").read(query))) == 2


# --- the environment


def factory(**env: str) -> Any:
    return InfrastructureFactory.construct(Environment("Kennel", {"PERSISTENCE_MODULE": MODULE, **env}))


def test_the_environment_of_an_application_comes_first(tmp_path: Path) -> None:
    made = factory(EVLOG_STORE=str(tmp_path / "a"), KENNEL_EVLOG_STORE=str(tmp_path / "b"), EVLOG_SYNC="none")
    assert isinstance(made, EvlogFactory)
    assert made.store.path == str(tmp_path / "b")
    made.close()
    with pytest.raises(InterfaceError):
        made.application_recorder().max_notification_id()


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"EVLOG_STORE": ""},
        {"EVLOG_SYNC": "sometimes"},
        {"EVLOG_LOCK_TIMEOUT": "soon"},
        {"ORIGINATOR_ID_TYPE": "int"},
    ],
)
def test_a_bad_environment_is_an_error_that_names_the_variable(tmp_path: Path, env: dict[str, str]) -> None:
    given = {"EVLOG_STORE": str(tmp_path / "store"), **env} if env else {}
    with pytest.raises(OSError, match="|".join(env) or "KENNEL_EVLOG_STORE or EVLOG_STORE"):
        factory(**given)
    assert not (tmp_path / "store").exists()


def test_a_store_is_not_created_where_tables_are_not(tmp_path: Path) -> None:
    with pytest.raises(InterfaceError, match="no store"):
        factory(EVLOG_STORE=str(tmp_path / "store"), CREATE_TABLE="n")


def test_a_recorder_of_another_kind_is_refused(tmp_path: Path) -> None:
    made = factory(
        EVLOG_STORE=str(tmp_path / "store"), PROCESS_RECORDER_TOPIC=f"{MODULE}:EvlogTrackingRecorder"
    )
    with pytest.raises(TypeError):
        made.process_recorder()
    made.close()


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (StoredEvent("x" * 300, 1, "T", b"{}"), DataError),
        (StoredEvent("a\nb", 1, "T", b"{}"), DataError),
        (StoredEvent("a", 1, "T" * 300, b"{}"), DataError),
        (StoredEvent("a", 1, "T", bytes((16 << 20) + 1)), DataError),
    ],
)
def test_what_cannot_be_kept_is_a_data_error(
    recorder: EvlogApplicationRecorder, event: StoredEvent, error: type[Exception]
) -> None:
    with pytest.raises(error):
        recorder.insert_events([event])
    assert recorder.max_notification_id() is None


def test_a_held_lock_is_an_operational_error(tmp_path: Path) -> None:
    with evlog.open(tmp_path / "store", create=True, lock_timeout=0.01) as store:
        recorder = EvlogApplicationRecorder(store)
        with FileLock(lock_path(store.path), 0.0), pytest.raises(OperationalError):
            recorder.insert_events(stored(uuid4(), 1))
