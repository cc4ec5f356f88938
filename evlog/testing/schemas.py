"""Schemas of event types: set, checked by every append in every process, changed and removed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.model.encoding import encode_events
from evlog.testing.base import LONG_SECONDS, EngineTests, OpenStore, in_threads, new, numbers

POSITIVE = {"type": "integer", "minimum": 1}
LINKED = {"properties": {"amount": {"$ref": "#/$defs/a"}, "x/~y": {}}, "$defs": {"a": {"maximum": 9}}}


class SchemaTests(EngineTests):
    """`EventStore.set_schema` and what it does to appends. Skipped where jsonschema-rs is missing."""

    @pytest.fixture(autouse=True)
    def library(self, request: pytest.FixtureRequest) -> None:
        if request.function.__qualname__.startswith("SchemaTests."):  # not what a subclass has beside them
            pytest.importorskip("jsonschema_rs")

    @pytest.fixture
    def strict(self, store: EventStore) -> EventStore:
        """A store in which events of type P must be positive numbers."""
        store.set_schema("P", POSITIVE)
        return store

    def test_verify_counts_events_of_the_stores_own(self, strict: EventStore) -> None:
        strict.append("a", [new(0), new(1)])
        for is_quick in (True, False):
            assert strict.verify(quick=is_quick).events == 3
        assert strict.info().events == 2

    def test_data_that_does_not_fit_is_refused_with_its_place(self, store: EventStore) -> None:
        store.set_schema("P", LINKED)
        data = {"amount": 10, "b": 0}
        with pytest.raises(evlog.SchemaViolation) as caught:
            store.append("a", [new(0), NewEvent("P", {"amount": 9}), NewEvent("P", data)])
        error = caught.value
        assert (error.type, error.version, error.pointer, error.index) == ("P", 1, "/amount", 2)
        assert "at /amount: 10 is greater" in str(error)
        assert list(store.read_all()) == []
        store.set_schema("P", {"properties": {"x/~y": {"items": False}}})
        with pytest.raises(evlog.SchemaViolation) as caught:
            store.append("a", [NewEvent("P", {"x/~y": [1]})])
        assert (caught.value.pointer, caught.value.version) == ("/x~1~0y/0", 2)

    def test_only_events_of_the_type_are_checked(self, strict: EventStore) -> None:
        strict.append("a", [new(0), new(1, "P"), new(-1, "Q")])
        assert numbers(strict.read("a")) == [0, 1, -1]

    def test_every_way_to_append_checks(self, strict: EventStore) -> None:
        bad = new(0, "P")
        ways: list[Callable[[], object]] = [
            lambda: strict.append("a", [bad]),
            lambda: strict.append_many([("a", [new(1)]), ("b", [bad])]),
            lambda: strict.append_encoded(["a"], encode_events([bad])),
            lambda: strict.append_encoded(["a"], encode_events([bad]), skip_known=True),
            lambda: strict.transact("a", lambda _: [bad]),
            lambda: strict.transact("a", lambda _: [bad], key="k"),
            lambda: strict.append("a", [new(1, "P") for _ in range(70)] + [bad]),
        ]
        for way in ways:
            with pytest.raises(evlog.SchemaViolation):
                way()
        assert list(strict.read_all()) == []

    @pytest.mark.parametrize("content_type", ["text", "binary"])
    def test_data_that_is_not_json_does_not_fit(
        self, strict: EventStore, content_type: evlog.ContentType
    ) -> None:
        with pytest.raises(evlog.SchemaViolation):
            strict.append("a", [NewEvent("P", b"1", content_type=content_type)])

    def test_another_store_object_checks_what_it_did_not_set(
        self, store: EventStore, other: EventStore
    ) -> None:
        other.append("a", [new(0, "P")])  # there was none yet
        store.set_schema("P", POSITIVE)
        with pytest.raises(evlog.SchemaViolation):
            other.append("a", [new(0, "P")])
        store.remove_schema("P")
        other.append("a", [new(0, "P")])
        store.set_schema("P", {"maximum": 0})
        other.append("a", [new(0, "P")])
        with pytest.raises(evlog.SchemaViolation) as caught:
            other.append("a", [new(1, "P")])
        assert caught.value.version == 2
        assert numbers(store.read("a")) == [0, 0, 0]

    def test_a_retry_of_what_was_appended_before_is_a_duplicate(
        self, store: EventStore, other: EventStore
    ) -> None:
        events = [new(0, "P", id=UUID(int=1)), new(-1, "P", id=UUID(int=2))]
        store.append("a", events)
        store.set_schema("P", POSITIVE)
        for opened in (store, other):
            assert opened.append("a", events).duplicate
            with pytest.raises(evlog.IdConflict):
                opened.append("a", [new(-2, "P", id=UUID(int=1))])
        skipped = [*events, new(3, "P", id=UUID(int=3))]
        result = store.append_encoded(["a"] * 3, encode_events(skipped), skip_known=True)
        assert list(result.duplicates) == [True, True, False]

    def test_versions_are_kept(self, store: EventStore, other: EventStore) -> None:
        first = store.set_schema("P", '{"minimum": 1}')
        assert (first.type, first.version, first.text) == ("P", 1, b'{"minimum": 1}')
        again = other.set_schema("P", b'{"minimum": 1}')
        assert (again.version, again.position) == (1, first.position)
        second = other.set_schema("P", {"minimum": 2})
        store.set_schema("ü\\", True)
        assert [(each.type, each.version) for each in store.schemas()] == [("P", 2), ("ü\\", 1)]
        assert store.schema("P").schema == {"minimum": 2}
        assert second.time >= first.time
        store.remove_schema("P")
        assert [each.type for each in other.schemas()] == ["ü\\"]
        assert other.schema("P", 1).text == b'{"minimum": 1}'
        assert other.set_schema("P", {"minimum": 2}).version == 3
        for type, version in (("X", None), ("P", 4), ("P", 0), ("X", 1)):
            with pytest.raises(evlog.SchemaNotFound):
                store.schema(type, version)
        with pytest.raises(evlog.SchemaNotFound):
            store.remove_schema("X")

    def test_what_is_no_schema_is_refused(self, store: EventStore) -> None:
        schemas: list[Any] = [
            *(None, 5, "", "x", "[]", b"{", {"type": "nope"}, {"pattern": "("}, {"$ref": "#/nope"}),
            {"$ref": "http://127.0.0.1:9/x"},
            {"$ref": "file:///etc/hostname"},
        ]
        for schema in schemas:
            with pytest.raises(evlog.InvalidArgument):
                store.set_schema("P", schema)
            assert store.schemas() == [], schema
        store.append("a", [new(0, "P")])

    def test_a_schema_refers_to_nothing_outside_itself(self, store: EventStore, tmp_path: Any) -> None:
        (tmp_path / "other.json").write_text('{"minimum":1}')
        with pytest.raises(evlog.InvalidSchema, match="is outside the schema"):
            store.set_schema("P", {"$ref": (tmp_path / "other.json").as_uri()})

    def test_numbers_that_cannot_be_checked_are_refused(self, store: EventStore) -> None:
        store.set_schema("P", {"minimum": 1})
        for data in (b"1e400", b"9" * 5000, b'[{"a":-1e999}]'):
            with pytest.raises(evlog.SchemaViolation):
                store.append("a", [NewEvent("P", data)])
        store.append("a", [NewEvent("P", b"1" + b"0" * 400), NewEvent("P", b"1.5e300")])

    def test_schemas_are_the_stores_own_events(self, strict: EventStore) -> None:
        strict.append("a", [new(1, "P")])
        assert numbers(strict.read_all()) == [1]
        assert [info.stream for info in strict.streams()] == ["a"]
        assert strict.info().events == 1
        assert strict.stream_version("$schemas") == 1
        assert strict.verify().ok

    def test_threads_that_set_schemas_lose_none(self, store: EventStore, other: EventStore) -> None:
        def work(opened: EventStore, name: str) -> None:
            for number in range(5):
                opened.set_schema(f"{name}{number}", POSITIVE)

        in_threads(partial(work, opened, name) for opened, name in ((store, "a"), (other, "b"), (store, "c")))
        assert len(store.schemas()) == 15

    def test_no_append_that_begins_after_a_schema_was_set_escapes_it(
        self, store: EventStore, open_store: OpenStore
    ) -> None:
        """Writers that append all the time, while schemas come and go."""
        limit = [0]  # events must be at least this; only ever raised, before the schema that says so
        done = threading.Event()
        escaped: list[int] = []

        def write() -> None:
            with open_store() as opened:
                while not done.is_set():
                    least = limit[0]
                    try:
                        opened.append("a", [new(least - 1, "P")])
                        escaped.append(least)
                    except evlog.SchemaViolation:
                        pass

        store.set_schema("P", {"minimum": 0})
        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for least in range(1, 30):
                store.set_schema("P", {"minimum": least})
                limit[0] = least
        finally:
            done.set()
            for thread in threads:
                thread.join(LONG_SECONDS)
        assert escaped == []
