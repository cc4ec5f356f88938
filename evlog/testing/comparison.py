"""An engine and a directory do the same random things and must give the same answers.

Compared are results, errors, reads and places; not times, nor the texts of errors.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from operator import or_
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import evlog
from evlog import EventStore, EvlogError, IdConflict, IfNone, IfVersion, InvalidEvent, NewEvent, Query
from evlog.testing.base import EngineTests, NewStore

STREAMS = ["a", "a-1", "b-1", "b-ü"]
streams = st.sampled_from(STREAMS)
types = st.sampled_from(["T", "U"])
ids = st.one_of(st.uuids(), st.integers(1, 12).map(lambda number: UUID(int=number)))
tags = st.lists(st.sampled_from(["x", "y:1", "y:2"]), max_size=2)
metadata = st.sampled_from([None, {"k": "1"}, {"k": 1, "l": "x"}])
events = st.builds(NewEvent, types, st.integers(0, 2), id=ids, tags=tags, metadata=metadata)
batches = st.lists(events, min_size=1, max_size=4)
expected = st.sampled_from(["any", "exists", 0, 1, 2, 3, 5])
filters = st.fixed_dictionaries(
    {},
    optional={
        "category": st.sampled_from(["a", "b", "c"]),
        "types": st.lists(types, max_size=2),
        "tags": tags,
        "metadata": st.sampled_from([{"k": "1"}, {"k": 1, "l": "x"}]),
        "grep": st.sampled_from(["1", "^[02]$"]),
    },
)
bounds = st.integers(0, 30)
one_item = st.builds(Query, st.lists(types, max_size=2), tags)
queries = one_item | st.builds(or_, one_item, one_item)
conditions = st.lists(
    st.builds(IfNone, queries, bounds) | st.builds(IfVersion, streams, st.integers(0, 3)), max_size=2
)
maybe_bounds = st.none() | bounds


def answer(call: Callable[[], Any]) -> Any:
    """Return what a call gives, without what differs from engine to engine: texts and times."""
    try:
        result = call()
    except (IdConflict, InvalidEvent):
        return IdConflict  # of several faults of ids, either engine may name another one
    except EvlogError as error:
        return type(error), *(getattr(error, name, None) for name in ("actual", "stream", "position"))
    if isinstance(result, list):
        # The digest of a redacted event is also that of its time.
        return [each[:5] + each[6:8] + (each.redacted or each[8],) for each in result]
    return result


class Comparison(RuleBasedStateMachine):
    """The rules. `compare_with_directory` makes a subclass that has a `new_store`."""

    new_store: NewStore

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="evlog-comparison-")
        directory = evlog.open(f"{self.directory}/store", create=True, segment_events=8)
        self.stores = (directory, type(self).new_store()())
        self.runs = [store.subscribe() for store in self.stores]
        self.sent: list[list[Any]] = []

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.directory)

    def compare(self, call: Callable[[EventStore], Any]) -> None:
        first, second = (answer(lambda store=store: call(store)) for store in self.stores)  # type: ignore[misc]
        assert first == second

    @rule(stream=streams, batch=batches, expected=expected)
    def append(self, stream: str, batch: list[NewEvent], expected: Any) -> None:
        self.sent.append([(stream, batch, expected)])
        self.compare(lambda store: tuple(store.append(stream, batch, expected)))

    @rule(stream=streams, batch=batches, conditions=conditions)
    def append_if(self, stream: str, batch: list[NewEvent], conditions: Any) -> None:
        self.compare(lambda store: tuple(store.append(stream, batch, conditions=conditions)))

    @rule(stream=streams, batch=batches, query=queries, other=batches | st.none())
    def decide(self, stream: str, batch: list[NewEvent], query: Query, other: list[NewEvent] | None) -> None:
        def run(store: EventStore) -> tuple[object, ...]:
            found = store.query(query)
            if other is not None:
                store.append("a", other)
            return tuple(store.append(stream, batch, conditions=found.unchanged))

        self.compare(run)

    @rule(appends=st.lists(st.tuples(streams, batches, expected), min_size=1, max_size=3))
    def append_many(self, appends: list[Any]) -> None:
        self.sent.append(appends)
        self.compare(lambda store: tuple(map(tuple, store.append_many(appends))))

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(1, 9), other=batches | st.just([]))
    def append_again(self, back: int, other: list[NewEvent]) -> None:
        """Retry an append, the whole of it or in another one; it may have been refused."""
        sent = self.sent[-(back % len(self.sent))]
        appends = [*sent, (sent[0][0], other)] if other else sent
        self.compare(lambda store: tuple(map(tuple, store.append_many(appends))))

    @rule(
        after=bounds, to=st.none() | bounds, filter=filters, reverse=st.booleans(), limit=st.none() | bounds
    )
    def read_all(self, after: int, to: int | None, filter: Any, reverse: bool, limit: int | None) -> None:
        self.compare(lambda store: list(store.read_all(after, to, reverse=reverse, limit=limit, **filter)))

    @rule(stream=streams, low=bounds, high=maybe_bounds, reverse=st.booleans())
    def read(self, stream: str, low: int, high: int | None, reverse: bool) -> None:
        self.compare(lambda store: list(store.read(stream, low, high, reverse=reverse, limit=5)))

    @rule(stream=streams, new=st.lists(types, max_size=3), key=st.integers(1, 9))
    def transact(self, stream: str, new: list[str], key: int) -> None:
        def decide(history: list[Any]) -> list[NewEvent]:
            return [NewEvent(type, len(history) % 3) for type in new]

        self.compare(lambda store: tuple(each[:-1] for each in store.transact(stream, decide, key=f"k{key}")))

    @precondition(lambda _: find_spec("jsonschema_rs") is not None)
    @rule(schema=st.sampled_from([None, True, {"maximum": 1}]))
    def change_schema(self, schema: Any) -> None:
        if schema is None:
            self.compare(lambda store: store.remove_schema("U"))
        else:
            self.compare(lambda store: (store.set_schema("U", schema).version, len(store.schemas())))

    @precondition(lambda self: self.stores[1].capabilities.redaction)
    @rule(positions=st.lists(bounds, min_size=1, max_size=3))
    def redact(self, positions: list[int]) -> None:
        self.compare(lambda store: tuple(store.redact(*positions, reason="r")[:3]))

    @rule(stream=streams)
    def look(self, stream: str) -> None:
        self.compare(lambda store: (store.head, store.stream_version(stream), store.has_stream(stream)))
        self.compare(lambda store: tuple((info.stream, info.events) for info in store.streams()))

    @rule(most=st.integers(0, 9))
    def follow(self, most: int) -> None:
        for _ in range(most):
            first, second = (run.next_event(0) for run in self.runs)
            assert (first and first[:5]) == (second and second[:5])
        assert self.runs[0].position == self.runs[1].position

    @rule(name=st.sampled_from(["m", "n"]), filter=filters, fail=st.integers(0, 3))
    def consume(self, name: str, filter: Any, fail: int) -> None:
        def handler(event: Any) -> None:
            if event.data == b"%d" % fail:
                raise ValueError

        def run(store: EventStore) -> tuple[object, ...]:
            store.consume(name, handler, follow=False, retries=1, on_failure="park", **filter)
            info = store.subscription(name)
            return (info[:4], info.parked, [place[:-1] for place in store.parked(name)])

        self.compare(run)
        self.compare(lambda store: store.replay_parked(name, handler))


class RandomTests(EngineTests):
    """Random calls, as many as the settings of hypothesis say, or the two attributes."""

    random_runs: int | None = None
    random_steps: int | None = None

    def test_random_calls_get_the_answers_of_a_directory(self, new_store: NewStore) -> None:
        compare_with_directory(new_store, runs=self.random_runs, steps=self.random_steps)


def compare_with_directory(new_store: NewStore, *, runs: int | None = None, steps: int | None = None) -> None:
    """Do random things to new stores and to directories; raise AssertionError where their answers differ.

    Args:
        new_store: names an empty store, and returns what opens it.
        runs: how many pairs of stores; None: the `max_examples` of the present settings of hypothesis.
        steps: how many calls of each pair at most; None: their `stateful_step_count`.
    """

    class Pair(Comparison):
        pass

    Pair.new_store = staticmethod(new_store)
    present = settings()
    run_state_machine_as_test(
        Pair,
        settings=settings(
            present,
            max_examples=runs or present.max_examples,
            stateful_step_count=steps or present.stateful_step_count,
            deadline=None,  # a slow server is not a failure
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
