"""Redactions: no read shows what they name any more, and everything else stays as it was."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import (
    ConditionFailed,
    Event,
    EventNotFound,
    EventStore,
    IfNone,
    InvalidArgument,
    InvalidEvent,
    Query,
    Unsupported,
)
from evlog.model.filters import LogSelection
from evlog.model.json_lines import encode_lines
from evlog.testing.base import LONG_SECONDS, EngineTests, new, numbers
from evlog.transfer import fork, plan_mirror, promote

MAIL = "frieda@example.org"


def secret(number: int, **options: Any) -> evlog.NewEvent:
    """Return an event with a secret in its data, metadata and tags."""
    id = UUID(int=number + 1)
    metadata = {"by": MAIL, "n": number}
    return evlog.NewEvent("T", {"n": number, "mail": MAIL}, id=id, metadata=metadata, tags=[MAIL], **options)


def kept(event: Event) -> tuple[Any, ...]:
    """Return what stays of an event."""
    return (*event[:6],)


def skip_without_redaction(store: EventStore) -> None:
    """Skip a test, once it is sure that the engine refuses what it needs."""
    if not store.capabilities.redaction:
        position = store.append("a", [new(0)]).last_position
        with pytest.raises(Unsupported):
            store.redact(position, reason="r")
        assert not store.get(position).redacted
        pytest.skip("the engine has no redaction")


class RedactionTests(EngineTests):
    """Redacting single events."""

    @pytest.fixture
    def secrets(self, store: EventStore) -> EventStore:
        """Events 0 to 9 with secrets, in the streams a-0 and a-1 in turn, at the positions 1 to 10."""
        skip_without_redaction(store)
        for number in range(10):
            store.append(f"a-{number % 2}", [secret(number)])
        return store

    @pytest.fixture
    def directory(self, tmp_path: os.PathLike[str]) -> Iterator[EventStore]:
        with evlog.open(f"{tmp_path}/other", create=True, segment_events=4) as opened:
            yield opened

    def test_every_way_of_reading_shows_only_what_stays(self, secrets: EventStore) -> None:
        before = list(secrets.read_all())
        assert not any(event.redacted for event in before)
        result = secrets.redact(3, before[5].id, reason="request 881")
        assert (result.redacted, result.already, result.position) == ((3, 6), (), 11)
        after = list(secrets.read_all())
        assert list(map(kept, after)) == list(map(kept, before))
        assert [event.position for event in after if event.redacted] == [3, 6]
        ways: list[Callable[[], list[Event]]] = [
            lambda: [after[2]],
            lambda: list(secrets.read("a-0", 2, 2)),
            lambda: list(secrets.read("a-0", reverse=True, limit=4))[3:],
            lambda: list(secrets.read_all(2, 3)),
            lambda: list(secrets.read_all(types=["T"], category="a", reverse=True))[7:8],
            lambda: [secrets.get(3)],
            lambda: [secrets.get(before[2].id)],
            lambda: list(secrets.query("type=T"))[2:3],
            lambda: list(secrets.subscribe(follow=False))[2:3],
            lambda: list(secrets.subscribe(stream="a-0", after=2, follow=False))[:1],
            lambda: [event for _, event in secrets.engine.read_frames(2, 3)],
        ]
        for way in ways:
            (event,) = way()
            assert event == after[2]
            assert (event.data, event.json(), event.metadata, event.tags) == (b"null", None, {}, ())
            assert event.metadata_bytes == b"{}"
            assert MAIL not in repr(tuple(event))
        (line,) = encode_lines([after[2]])
        shown = json.loads(line)
        assert (shown["data"], shown["metadata"], shown["redacted"]) == (None, {}, True)
        assert "tags" not in shown
        assert MAIL.encode() not in line

    def test_others_see_it_at_once(self, secrets: EventStore, other: EventStore) -> None:
        assert not other.get(4).redacted
        secrets.redact(4, reason="r")
        assert other.get(4).redacted
        assert [event.position for event in other.read("a-1") if event.redacted] == [4]

    def test_a_follower_that_waits_sees_what_was_redacted_meanwhile(self, store: EventStore) -> None:
        skip_without_redaction(store)
        with store.subscribe("n") as run:
            assert run.next_event(0) is None
            store.append("a-0", [secret(0)])
            store.redact(1, reason="r")
            event = run.next_event(LONG_SECONDS)
            assert event is not None
            assert (event.position, event.redacted) == (1, True)

    def test_what_says_so_is_an_event_of_the_stores_own(self, secrets: EventStore) -> None:
        secrets.redact(2, 1, reason="request 881")
        secrets.redact(UUID(int=5), reason="another")
        one, two = secrets.redactions()
        assert (one.position, one.reason, one.positions) == (11, "request 881", (2, 1))
        assert (two.position, two.reason, two.positions) == (12, "another", (5,))
        assert [id for _, id, _ in one.events] == [UUID(int=2).bytes, UUID(int=1).bytes]
        events = list(secrets.read("$redactions"))
        assert [event.time for event in events] == [one.time, two.time]
        assert list(secrets.read_all())[-1].position == 10
        assert not any(MAIL.encode() in event.data for event in events)

    def test_tags_match_nothing_any_more_and_conditions_do_not_count_them(self, secrets: EventStore) -> None:
        tagged = IfNone(Query(tags=[MAIL]))
        with pytest.raises(ConditionFailed):
            secrets.append("c", [new(1)], conditions=tagged)
        secrets.redact(*range(1, 10), reason="r")
        assert [event.position for event in secrets.read_all(tags=[MAIL])] == [10]
        assert [event.position for event in secrets.read("a-1", tags=[MAIL])] == [10]
        with pytest.raises(ConditionFailed) as failed:
            secrets.append("c", [new(1)], conditions=tagged)
        assert failed.value.position == 10
        secrets.redact(10, reason="r")
        assert list(secrets.read_all(tags=[MAIL])) == []
        secrets.append("c", [new(1)], conditions=[tagged, IfNone(Query(tags=[MAIL]), after=9)])
        with pytest.raises(ConditionFailed):
            secrets.append("c", [new(2)], conditions=IfNone(Query(types=["T"])))  # types stay

    def test_a_retry_is_a_duplicate_by_its_id_alone(self, secrets: EventStore) -> None:
        secrets.redact(3, reason="r")
        for event in (secret(2), new(99, "U", id=UUID(int=3))):
            result = secrets.append("a-0", [event])
            assert (result.duplicate, result.first_position, result.first_version) == (True, 3, 2)
        with pytest.raises(evlog.IdConflict):
            secrets.append("a-0", [new(99, id=UUID(int=4))])  # which is not redacted

    def test_what_is_redacted_already_stays_so(self, secrets: EventStore, other: EventStore) -> None:
        secrets.redact(3, reason="r")
        once = secrets.get(3)
        again = other.redact(3, 3, UUID(int=3), 5, reason="again")
        assert (again.redacted, again.already, again.position) == ((5,), (3,), 12)
        assert other.redact(3, reason="again")[:3] == ((), (3,), 0)
        assert secrets.get(3) == once
        assert [redaction.positions for redaction in secrets.redactions()] == [(3,), (5,)]

    def test_what_cannot_be_redacted_is_refused_and_nothing_is(self, secrets: EventStore) -> None:
        bad: list[tuple[tuple[Any, ...], Any, type[Exception]]] = [
            ((3, 99), "r", EventNotFound),
            ((3, UUID(int=99)), "r", EventNotFound),
            ((), "r", InvalidArgument),
            ((3,), "", InvalidArgument),
            ((3,), " ", InvalidArgument),
            ((3,), "two\nlines", InvalidArgument),
            ((3,), "x" * 5000, InvalidArgument),
            ((3, "no id"), "r", InvalidArgument),
        ]
        for events, reason, error in bad:
            with pytest.raises(error):
                secrets.redact(*events, reason=reason)
        assert secrets.redactions() == []
        secrets.redact(4, reason="r")
        with pytest.raises(InvalidArgument):
            secrets.redact(3, secrets.head, reason="r")  # a redaction
        assert len(secrets.redactions()) == 1

    def test_nobody_else_can_write_what_looks_redacted(self, store: EventStore) -> None:
        for metadata in ({"$redacted": "x"}, b'{"$redacted":"x"}', b'{"\\u0024redacted":"x"}'):
            with pytest.raises(InvalidEvent):
                store.append("a", [new(1, metadata=metadata)])
        store.append("a", [new(1, metadata={"a": {"$redacted": "x"}})])
        assert not store.get(1).redacted

    def test_a_state_is_folded_without_it(self, secrets: EventStore) -> None:
        assert secrets.state("a-0", snapshot="s").value == {"n": 8, "mail": MAIL}
        secrets.append("a-0", [evlog.NewEvent("T", {"x": 1}, id=UUID(int=77))])
        assert secrets.redact(9, reason="r").snapshots == ("s",)
        assert secrets.snapshots() == []
        assert secrets.state("a-0").value["x"] == 1
        secrets.redact(*(event.position for event in secrets.read("a-0") if event.position < 11), reason="r")
        assert MAIL not in json.dumps(secrets.state("a-0", snapshot="s").value)

    @pytest.mark.parametrize("selection", [{"stream": "a-1"}, {"category": "a"}], ids=["stream", "category"])
    def test_a_state_that_was_folded_meanwhile_is_not_kept(
        self, secrets: EventStore, selection: dict[str, str]
    ) -> None:
        def redact_meanwhile(state: list[Any], event: Event) -> list[Any]:
            if event.position == 10 and not secrets.redactions():
                secrets.redact(2, reason="r")
            return [*state, event.json()]

        fold = evlog.Fold(redact_meanwhile, list, name="all")

        def folded() -> list[Any]:
            value: list[Any] = secrets.state(
                selection.get("stream"), fold, category=selection.get("category"), snapshot="s"
            ).value
            return value

        assert None not in folded()  # it had read the event before
        assert secrets.snapshots() == []
        secrets.append("a-1", [new(1, id=UUID(int=50))])
        assert folded().count(None) == 1

    def test_verify_says_what_was_redacted_since_and_that_nothing_else_changed(
        self, secrets: EventStore
    ) -> None:
        pin = secrets.verify().digest
        if pin is None:
            pytest.skip("the engine has no digest")
        secrets.append("b", [secret(20)])
        secrets.redact(3, 11, reason="one")
        secrets.redact(6, reason="two")
        for _ in range(2):
            report = secrets.verify(against=pin)
            assert report.ok, report.findings
            assert [(each.reason, each.positions) for each in report.redactions or ()] == [
                ("one", (3,)),
                ("two", (6,)),
            ]
            assert [each["redacted"] for each in report.as_object()["redactions"]] == [(3,), (6,)]
            assert secrets.verify(against=secrets.verify().digest).redactions == ()
            assert secrets.verify().redactions is None
            if secrets.capabilities.compaction:
                before = list(secrets.read_all())
                secrets.compact()
                assert list(secrets.read_all()) == before

    @pytest.mark.parametrize("erased", [True, False])
    def test_a_compaction_that_removes_what_was_redacted_keeps_the_id(
        self, secrets: EventStore, erased: bool
    ) -> None:
        if not secrets.capabilities.retention:
            pytest.skip("the engine has no retention")
        secrets.redact(1, 3, reason="r")
        if erased:
            secrets.compact()
        secrets.set_retention("a-0", before=3)
        secrets.compact()
        assert secrets.append("a-0", [new(5, "U", id=UUID(int=1))]).duplicate
        assert secrets.append("a-0", [secret(2)]).duplicate
        with pytest.raises(evlog.EventNotFound):
            secrets.redact(3, reason="r")
        assert secrets.verify().ok

    def test_a_mirror_gets_no_content_and_later_redactions(
        self, secrets: EventStore, directory: EventStore
    ) -> None:
        secrets.redact(3, reason="r")
        evlog.mirror(secrets, directory)
        secrets.redact(6, reason="r")
        assert not directory.get(6).redacted
        evlog.mirror(secrets, directory)
        self.check_mirror(secrets, directory)

    def test_a_mirror_here_gets_no_content_and_later_redactions(
        self, directory: EventStore, store: EventStore
    ) -> None:
        for number in range(10):
            directory.append(f"a-{number % 2}", [secret(number)])
        directory.redact(3, reason="r")
        evlog.mirror(directory, store)
        directory.redact(6, reason="r")
        directory.compact()
        if not store.capabilities.redaction:
            with pytest.raises(Unsupported, match=r"redaction at position 12 .* copy into a new store"):
                evlog.mirror(directory, store)
            with pytest.raises(Unsupported):
                plan_mirror(directory, store)
            assert store.head == 11  # nothing was copied
            assert [event.position for event in store.read_all() if event.redacted] == [3]
            return
        evlog.mirror(directory, store)
        self.check_mirror(directory, store)

    def test_a_mirror_in_pieces_takes_redactions_of_what_has_no_content(
        self, directory: EventStore, store: EventStore
    ) -> None:
        """Also a run that goes on between an event and its redaction, where the event was removed since."""
        for number in range(10):
            directory.append(f"a-{number % 2}", [secret(number)])
        directory.set_retention("a-1", max_count=4)
        directory.redact(2, 3, 5, reason="r")
        directory.append("b", [new(1), new(2)])
        directory.compact(force=True)
        with evlog.Mirror(directory, store, piece_events=1) as mirror:
            mirror.copy_history(7, None)
        with evlog.Mirror(directory, store, piece_events=1) as mirror:
            mirror.copy()
            assert mirror.check().ok
        assert list(store.read_all()) == list(directory.read_all())
        assert [event.position for event in store.read_all() if event.redacted] == [3, 5]
        assert store.verify().ok

    def test_a_fork_from_before_a_redaction_has_no_content(
        self, directory: EventStore, store: EventStore
    ) -> None:
        for number in range(6):
            directory.append(f"a-{number % 2}", [secret(number)])
        directory.redact(2, reason="r")
        directory.redact(3, reason="s")
        fork(directory, store, at=5)
        assert [event.position for event in store.read_all() if event.redacted] == [2, 3]
        assert [(made.reason, made.positions) for made in store.redactions()] == [("r", (2,)), ("s", (3,))]
        assert store.append("b", [new(1)]).first_position == 8
        assert store.verify().ok

    def test_a_redaction_made_while_a_fork_is_copied(self, directory: EventStore, store: EventStore) -> None:
        for number in range(6):
            directory.append(f"a-{number % 2}", [secret(number)])

        def redact(_done: int, _total: int) -> None:
            if not directory.redactions():
                directory.redact(2, reason="r")

        if store.capabilities.redaction:
            fork(directory, store, progress=redact)
            assert [event.position for event in store.read_all() if event.redacted] == [2]
            return
        with pytest.raises(Unsupported, match=r"redaction at position 7 .* copy into a new store"):
            fork(directory, store, progress=redact)
        assert store.standing.is_unfinished_fork

    def test_a_mirror_erases_what_its_source_has_erased(
        self, secrets: EventStore, directory: EventStore
    ) -> None:
        if not secrets.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        evlog.mirror(secrets, directory)
        secrets.redact(*range(1, 11), reason="r")
        secrets.set_retention("none", max_count=1)
        secrets.append("none", [new(1), new(2)])
        secrets.compact()
        evlog.mirror(secrets, directory)
        assert all(event.redacted for event in directory.read_all(to=10))
        for folder, _, names in os.walk(directory.path):
            for name in names:
                with open(f"{folder}/{name}", "rb") as file:
                    assert MAIL.encode() not in file.read(), name

    def test_a_merge_redacts_what_its_source_has_redacted(
        self, secrets: EventStore, directory: EventStore
    ) -> None:
        directory.append("own", [new(1)])
        secrets.redact(3, reason="one")
        evlog.mirror(secrets, directory, merge=True)
        assert len(list(directory.read_all())) == 10  # without the redacted one
        secrets.redact(6, reason="two")
        secrets.append("a-0", [new(5)])
        for _ in range(2):
            evlog.mirror(secrets, directory, merge=True)
            assert [event.id.int for event in directory.read_all() if event.redacted] == [6]
            assert [made.reason for made in directory.redactions()] == ["two"]
            assert directory.verify().ok

    def check_mirror(self, source: EventStore, mirror: EventStore) -> None:
        both = [list(each.engine.read_all(LogSelection())) for each in (source, mirror)]
        assert both[0] == both[1]
        assert [event.position for event in both[1] if event.redacted] == [3, 6]
        assert mirror.redactions() == source.redactions()
        assert mirror.verify().ok
        promote(mirror)
        if mirror.capabilities.compaction:
            mirror.compact()
        assert mirror.verify().ok
        assert list(mirror.read_all()) == list(source.read_all())

    def test_threads_that_read_and_append_meanwhile_see_each_event_whole_or_redacted(
        self, store: EventStore, other: EventStore
    ) -> None:
        skip_without_redaction(store)
        for first in range(0, 50, 10):
            store.append("a-0", [secret(first + number) for number in range(10)])
        ended = threading.Event()
        seen: list[Event] = []
        errors: list[BaseException] = []

        def read() -> None:
            try:
                while not ended.is_set():
                    seen.extend(other.read_all(types=["T"]))
            except BaseException as error:  # noqa: BLE001 - the test raises it
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for position in range(1, 51, 5):
                store.redact(position, position + 1, reason="r")
                store.append("b", [new(position)])
                if store.capabilities.compaction and position % 2:
                    store.compact()
        finally:
            ended.set()
            thread.join()
        assert errors == []
        for event in seen:
            if event.stream == "a-0":
                assert event.redacted or (event.json()["mail"], event.tags) == (MAIL, (MAIL,))
        assert sum(event.redacted for event in other.read_all()) == 20
        assert numbers(other.read("b")) == list(range(1, 51, 5))
