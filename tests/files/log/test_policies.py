"""Policies are found wherever they are: sealed or active, appended by others, read again, damaged."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import CorruptionError
from evlog.files.disk.files import DISK
from evlog.files.format.entries import ENTRY, ENTRY_BYTES, TYPE_HASH_AT
from evlog.files.log import policies
from evlog.files.log.log import Log
from evlog.files.log.manifest_file import replace_manifest
from evlog.files.log.parts import SegmentMoved
from evlog.files.log.policies import PolicyTable, _find_types, rules_at
from evlog.files.log.segment_filter import SegmentFilter
from evlog.model import retention
from evlog.model.events import Record
from evlog.model.retention import Rule, Rules
from tests.support.helpers import fill, new, numbers, segment_files, small_store
from tests.support.interrupts import Interrupted


def rules_of(path: Path | str) -> Rules:
    return Log(str(path)).policies().rules()


@pytest.mark.parametrize("count", [3, 16, 17, 1000])
def test_types_are_found_among_others_whose_hashes_share_bytes_with_theirs(count: int) -> None:
    rng = random.Random(count)
    wanted = [rng.randbytes(4) for _ in range(4)]
    hashes = frozenset(int.from_bytes(one, "little") for one in wanted)
    alike = [wanted[at][: at + 1] + rng.randbytes(3 - at) for at in range(3)]
    alike += [rng.randbytes(4 - at) + wanted[at][4 - at :] for at in range(1, 4)]
    for types in ([rng.randbytes(4)], alike[:1], alike, [*alike, *wanted], wanted[:1]):
        chosen = [rng.choice(types) for _ in range(count)]
        entries = bytearray(
            b"".join(rng.randbytes(TYPE_HASH_AT) + type + rng.randbytes(4) for type in chosen)
        )
        for first in (0, 1, count // 2):
            expected = [at for at in range(first, count) if chosen[at] in wanted]
            found = _find_types(entries, first * ENTRY_BYTES, len(entries), hashes)
            assert found == expected


def numbers_and_redactions(log: Log) -> tuple[list[list[int]], list[Record]]:
    table = log.policies()
    return [list(table.system_numbers(part)) for part in log.parts()], list(table.redactions)


def test_a_log_that_is_refreshed_has_each_redaction_once(store: EventStore) -> None:
    log = Log(store.path)
    for _ in range(20):
        store.redact(store.append("s", [new()]).first_position, reason="asked for")
        log.refresh()
        assert numbers_and_redactions(log) == numbers_and_redactions(Log(store.path))


def test_an_interrupt_while_policies_are_read_repeats_none(store: EventStore) -> None:
    for step in range(1, 1000):
        log = Log(store.path)
        log.policies()
        for _ in range(3):
            store.redact(store.append("s", [new()]).first_position, reason="asked for")
        log.refresh()
        with Interrupted(step, policies, retention) as interrupted:
            log.policies()
        assert numbers_and_redactions(log) == numbers_and_redactions(Log(store.path))
        if not interrupted.happened:
            assert step > 10
            return
    raise AssertionError("the look never got through")


def test_a_store_without_policies_has_none(store: EventStore) -> None:
    fill(store, 30)
    log = Log(store.path)
    table = log.policies()
    assert not table.any
    assert table.rule_for("s-1") is None
    if not os.environ.get("EVLOG_TEST_HASH_BITS"):
        assert not any(table.system_numbers(part) for part in log.parts())


@pytest.mark.exact_hashes
def test_segments_without_policies_are_not_opened(store: EventStore) -> None:
    fill(store, 30)
    store.set_retention("s-1", max_count=1)
    log = Log(store.path)
    assert log.policies().any
    assert len(log.sealed) == 3
    assert [part._index for part in log.sealed] == [None] * 3


def test_policies_are_found_in_sealed_segments_and_in_the_active_one(store: EventStore) -> None:
    store.set_retention("s-1", max_count=1)
    fill(store, 20)
    store.set_retention("s-1", max_count=2)
    store.set_retention(category="s", max_count=3)
    assert len(segment_files(store, "log")) > 2
    rules = rules_of(store.path)
    assert rules.streams == {"s-1": Rule(2)}
    assert rules.categories == {"s": Rule(3)}
    for path in segment_files(store, "types"):
        path.unlink()
    assert rules_of(store.path).streams == {"s-1": Rule(2)}


def test_a_policy_stays_known_while_the_log_rolls_under_it(store: EventStore) -> None:
    with evlog.open(store.path) as reader:
        store.set_retention("s-1", max_count=2)
        for number in range(40):
            store.append("s-1", [new(number)])
            assert len(list(reader.read("s-1"))) == len(list(store.read("s-1"))) == min(number + 1, 2)
            if number == 20:
                store.set_retention("x", max_count=1)
        assert reader.policies() == store.policies()
        assert len(store.policies()) == 2


@pytest.mark.exact_hashes
@pytest.mark.parametrize("count", [1, 16, 17, 100])
def test_a_policy_is_found_in_the_middle_of_many_new_entries(memory_path: Path, count: int) -> None:
    with small_store(memory_path / "store", segment_events=1000) as store:
        table = Log(store.path)
        store.append("s", [new(0), new(0), new(0)])
        table.refresh()
        assert not table.policies().any
        store.append("s", [new(number) for number in range(count)])
        store.set_retention("s", max_count=1)
        store.append("s", [new(number) for number in range(count)])
        table.refresh()
        assert table.policies().rule_for("s") == Rule(1)
        assert list(table.policies().system_numbers(table.active)) == [3 + count]


def test_type_hashes_are_found_only_in_their_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes across two entries' hashes are none, and none elsewhere in an entry."""
    monkeypatch.setattr("evlog.files.log.policies.hash_type", lambda _: 0x04030201)
    hashes = [0, 0x02010000, 0x00000403, 0x04030201, *range(100)]
    entries = bytearray(
        b"".join(ENTRY.pack(0x0403020104030201, 0, 0, 0, 0, 0, 0, 0x04030201, own) for own in hashes)
    )
    for end in (5, len(hashes)):
        table, part = PolicyTable(), FakePart(entries[: end * ENTRY_BYTES])
        table.update([], part, SegmentFilter("nowhere", bytes(16)))  # type: ignore[arg-type]
        assert list(table.system_numbers(part)) == [3]  # type: ignore[arg-type]


class FakePart:
    """A segment of entries alone."""

    def __init__(self, entries: bytearray) -> None:
        self.entries = entries
        self.index = self.segment = self

    def find(self, kind: int, key: int) -> Sequence[int]:
        raise NotImplementedError

    def find_newest_first(self, kind: int, key: int) -> Iterator[int]:
        raise NotImplementedError

    def record(self, number: int) -> Record:
        return (number + 1, 1, "s", "$metadata", bytes(16), 0, 0, b"", None)

    def records(self, numbers: Sequence[int]) -> Iterator[Sequence[Record]]:
        yield list(map(self.record, numbers))


def test_segments_that_were_replaced_take_their_policies_with_them(memory_path: Path) -> None:
    logs = []
    for name in ("a", "b"):
        with small_store(memory_path / name) as store:
            store.set_retention(name, max_count=1)
            fill(store, 20)
            logs.append(Log(store.path))
    table = PolicyTable()
    for log, name in zip(logs, ("a", "b"), strict=True):
        table.update(*log.view(), log.filter)
        assert table.is_current(*log.view())
        assert table.rules().streams == {name: Rule(1)}


def test_users_events_of_the_same_type_are_not_policies(store: EventStore) -> None:
    store.append("s", [NewEvent("$metadata", {"$maxCount": 1}), new(2), new(3)])
    assert len(list(store.read("s"))) == 3
    assert len(list(store.read_all())) == 3
    assert store.policies() == []
    assert store.info().events == 3


def test_rules_at_a_position_are_those_written_up_to_there(store: EventStore) -> None:
    store.set_retention("s-1", max_count=1)  # position 1
    fill(store, 10)
    store.set_retention("s-1", max_count=2)  # position 12
    store.set_retention(category="s", max_count=3)  # position 13
    log = Log(store.path)
    parts = [(part, part.count) for part in log.parts()]

    def at(position: int) -> tuple[dict[str, Rule], dict[str, Rule]]:
        rules = rules_at(parts, position)
        return rules.streams, rules.categories

    assert at(0) == ({}, {})
    assert at(1) == at(11) == ({"s-1": Rule(1)}, {})
    assert at(12) == ({"s-1": Rule(2)}, {})
    assert at(13) == ({"s-1": Rule(2)}, {"s": Rule(3)})


def test_a_log_that_is_read_anew_has_its_policies_still(store: EventStore) -> None:
    store.set_retention("s-1", max_count=1)
    fill(store, 20)
    store.set_retention("s-2", max_count=1)
    log = Log(store.path)
    before = log.policies().rules()
    log.reset()
    log.refresh()
    assert log.policies().rules().streams == before.streams == {"s-1": Rule(1), "s-2": Rule(1)}


def test_a_policy_in_a_tail_that_is_cut_is_forgotten(store: EventStore) -> None:
    """An unacknowledged policy may be seen and then removed by recovery: what it hid is visible again."""
    fill(store, 6)
    log = segment_files(store, "log")[-1]
    end = Log(store.path).active.segment.end
    marks = Path(store.path, "durable").read_bytes()
    with small_store(store.path, sync="none") as lazy:
        lazy.set_retention("s-1", max_count=1)
    with evlog.open(store.path) as reader:
        assert len(list(reader.read("s-1"))) == 1
        with log.open("r+b") as file:
            file.truncate(end)
        Path(store.path, "durable").write_bytes(marks)
        replace_manifest(
            store.path, Log(store.path).manifest, DISK
        )  # as a writer cuts it, after a failed sync
        fresh = evlog.open(store.path)
        fresh.append("s-1", [new(7)])
        assert len(list(reader.read("s-1"))) == len(list(fresh.read("s-1"))) == 3
        fresh.close()


def flip_record(store: EventStore, content: bytes) -> None:
    """Flip a bit of the data in whichever log it is."""
    for path in segment_files(store, "log"):
        raw = bytearray(path.read_bytes())
        at = raw.find(content)
        if at >= 0:
            raw[at + 3] ^= 1
            path.write_bytes(raw)
            return
    raise AssertionError("it is in no log")


def readable(store: EventStore, streams: Sequence[str]) -> list[str]:
    found = []
    for stream in streams:
        try:
            numbers(store.read(stream))
        except CorruptionError:
            continue
        found.append(stream)
    return found


@pytest.mark.exact_hashes
@pytest.mark.parametrize("sealed", [False, True])
def test_a_damaged_policy_concerns_its_stream_alone(store: EventStore, sealed: bool) -> None:
    streams = ["s-0", "s-1", "s-2"]
    store.set_retention("s-0", max_count=9)
    store.set_retention("s-1", max_count=77)
    store.set_retention("s-2", max_count=9)
    fill(store, 30 if sealed else 3)
    flip_record(store, b'{"$maxCount":77}')
    with evlog.open(store.path) as damaged:
        assert readable(damaged, streams) == ["s-0", "s-2"]
        with pytest.raises(CorruptionError):
            damaged.policies()
        with pytest.raises(CorruptionError):
            damaged.append("s-1", [new(1)])
        damaged.append("s-2", [new(1)])


@pytest.mark.exact_hashes
def test_a_policy_in_a_log_that_is_missing_concerns_its_stream_alone(store: EventStore) -> None:
    store.append("first", [new(number) for number in range(8)])
    store.append("s-0", [new(1)])
    store.set_retention("s-1", max_count=9)
    fill(store, 30)
    store.append("last", [new(number) for number in range(8)])
    store.append("s-1", [new(1)])
    segment_files(store, "log")[1].unlink()
    with evlog.open(store.path) as damaged:
        assert readable(damaged, ["first", "last", "s-0", "s-1"]) == ["first", "last"]
        assert [event.position for event in damaged.read_all(to=8)] == list(range(1, 9))
        damaged.append("last", [new(1)])
        with pytest.raises(CorruptionError):
            damaged.append("s-1", [new(1)])


@pytest.mark.exact_hashes  # else the damaged event may be a policy of any stream
def test_a_damaged_policy_of_a_category_concerns_the_category(store: EventStore) -> None:
    store.set_retention(category="s", max_count=77)
    store.append("t-1", [new(1)])
    fill(store, 30)
    flip_record(store, b'{"$maxCount":77}')
    with evlog.open(store.path) as damaged:
        assert readable(damaged, ["s-0", "s-1", "t-1"]) == ["t-1"]


@pytest.mark.exact_hashes  # else the damaged event may be the last one of the stream
@pytest.mark.parametrize("between", [0, 30])
def test_a_policy_that_was_replaced_may_be_damaged(store: EventStore, between: int) -> None:
    store.append("x", [new(number) for number in range(4)])
    store.set_retention("x", max_count=77)
    fill(store, between)
    store.set_retention("x", max_count=2)
    flip_record(store, b'{"$maxCount":77}')
    with evlog.open(store.path) as damaged:
        assert numbers(damaged.read("x")) == [2, 3]


# --- many


def test_many_policies_are_read_once_and_extended_with_the_log(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        store.append(f"s-{number}", [new(0), new(1), new(2)])
        store.set_retention(f"s-{number}", max_count=1)
    for number in range(20):
        store.set_retention(f"s-{number}", max_count=2)
    store.append("t", [new(number) for number in range(20)])
    store.set_retention(category="s", max_age=1000)
    read: list[str] = []
    add = Rules.add

    def counting(rules: Rules, record: Record) -> None:
        if record[3] == "$metadata":
            read.append(record[2])
        add(rules, record)

    monkeypatch.setattr(Rules, "add", counting)
    with evlog.open(store.path) as cold:
        assert numbers(cold.read("s-7")) == [1, 2]
        assert cold.retention("s-7") == evlog.Retention(2, 1000)
        for number in range(20):
            assert numbers(cold.read(f"s-{number}")) == [1, 2]
        assert len(read) == 41
        store.set_retention("s-3", max_count=1)
        cold.set_retention("s-4", max_count=1)
        assert cold.policies() == store.policies()
        read.clear()
        for handle in (cold, store):
            assert [numbers(handle.read(f"s-{number}")) for number in (2, 3, 4)] == [[1, 2], [2], [2]]
        fill(store, 20)  # rolls
        assert len(read) <= 8, "what was known was read again"
        assert cold.policies() == store.policies()
        assert len(cold.policies()) == 21


@pytest.mark.exact_hashes
def test_one_damaged_policy_of_many_affects_its_stream_alone(store: EventStore) -> None:
    for number in range(9):
        store.append(f"s-{number}", [new(0)])
        store.set_retention(f"s-{number}", max_count=70 + number)
    flip_record(store, b'{"$maxCount":75}')
    streams = [f"s-{number}" for number in range(9)]
    with evlog.open(store.path) as damaged:
        for _ in range(3):
            assert readable(damaged, streams) == [*streams[:5], *streams[6:]]


def test_what_was_found_is_not_looked_up_again_when_a_later_segment_has_moved(store: EventStore) -> None:
    store.set_retention("s-1", max_count=1)
    fill(store, 20)
    log = Log(store.path)
    sealed, active = log.view()
    looked: list[int] = []
    firsts = [part.first_position for part in sealed]

    class Moving:
        """A segment that is replaced while it is looked into, the first time."""

        def __init__(self, part: Any, *, moves: bool) -> None:
            self.part = part
            self.moves = moves
            self.info = part.info
            self.segment = part.segment
            self.system_numbers = None

        @property
        def index(self) -> Any:
            if self.moves:
                self.moves = False
                raise SegmentMoved
            looked.append(self.part.first_position)
            return self.part.index

    for row, part in zip(sealed.rows, sealed, strict=True):
        sealed.made[row] = cast(Any, Moving(part, moves=row == sealed.rows[-1]))
    table = PolicyTable()
    everywhere = SegmentFilter("nowhere", bytes(16))
    with pytest.raises(SegmentMoved):
        table.update(sealed, active, everywhere)
    assert set(looked) == set(firsts[:-1])
    looked.clear()
    table.update(sealed, active, everywhere)
    assert set(looked) == {firsts[-1]}
    assert table.rules().streams == {"s-1": Rule(1)}
