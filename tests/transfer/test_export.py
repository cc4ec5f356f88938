"""Export: each format read back by what reads it elsewhere, continued, and interrupted."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from cloudevents.core.formats.json import JSONFormat

import evlog
from evlog import Event, EventStore, NewEvent
from evlog.errors import (
    CorruptionError,
    ExtraNotInstalled,
    InvalidArgument,
    StoreAccessDenied,
    StoreFull,
    SystemCallFailed,
)
from evlog.files.disk import files
from evlog.model.events import CONTENT_TYPES
from evlog.model.json_lines import InvalidLine, encode_lines
from evlog.transfer import export as exports
from evlog.transfer import formats
from evlog.transfer.cloudevents import cloudevents_decoder
from evlog.transfer.export import SUFFIXES, ExportResult, Output, export, in_batches
from tests.support.helpers import small_store
from tests.support.programs import run_python


@pytest.fixture
def store(memory_path: Path) -> Iterator[EventStore]:
    with small_store(memory_path / "store") as store:
        events = [
            NewEvent("Json", b'{"b":1,"a":1.0e3,"q":"\\"x\\",y"}', tags=["course:c1", "n:2"]),
            NewEvent("Text", 'line\n\u2028 \u00e9,"', content_type="text", metadata={"k": [1, None]}),
            NewEvent("Bin", bytes(range(256)), content_type="binary", correlation_id="c", causation_id="d"),
            NewEvent("Json", [], metadata={"traceparent": "00-1-2-01"}),
        ]
        store.append("s-1", events)
        store.append("größe", events)
        yield store


def run(store: EventStore, path: Path, **settings: Any) -> ExportResult:
    redacted = [position for made in store.redactions() for position in made.positions]
    return export(path, store.read_all, store_id=str(store.id), redacted=redacted, **settings)


def lines_of(path: Path) -> list[bytes]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw), read_across_frames=True).read()
    return raw.splitlines(True)


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    found = [dict(row) for row in database.execute("select * from events order by position")]
    database.close()
    return found


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_lines_are_what_read_prints(store: EventStore, memory_path: Path, suffix: str) -> None:
    path = memory_path / f"out{suffix}"
    assert run(store, path) == (str(path), 8, 8)
    assert b"".join(lines_of(path)) == b"".join(encode_lines(store.read_all()))


@pytest.mark.skipif(sys.platform != "linux", reason="not every file system takes such a name")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_may_have_a_name_that_is_not_utf8(store: EventStore, memory_path: Path, suffix: str) -> None:
    path = memory_path / os.fsdecode(b"out\xff" + suffix.encode())
    assert run(store, path).events == 8
    store.append("s-9", [NewEvent("T")])
    assert run(store, path, append=True) == (str(path), 1, 9)
    assert os.listdir(os.fsencode(memory_path)).count(os.fsencode(path.name)) == 1


def check_row(row: dict[str, Any], event: Event) -> None:
    assert (int(row["position"]), row["stream"], int(row["version"])) == (
        event.position,
        event.stream,
        event.version,
    )
    assert (row["id"], row["type"], row["content_type"]) == (str(event.id), event.type, event.content_type)
    assert json.loads(row["metadata"]) == event.metadata
    assert json.loads(row["tags"] or "[]") == list(event.tags)
    assert row["redacted"] in ((True, 1, "true") if event.redacted else (False, 0, "false"))


@pytest.mark.parametrize("suffix", [".csv", ".sqlite", ".parquet"])
def test_a_table_has_a_row_for_each_event(store: EventStore, memory_path: Path, suffix: str) -> None:
    path = memory_path / f"out{suffix}"
    store.redact(5, reason="a test")
    assert run(store, path).events == 8
    rows = rows_of(path)
    events = list(store.read_all())
    assert len(rows) == len(events)
    for row, event in zip(rows, events, strict=True):
        check_row(row, event)
        if suffix == ".parquet":
            assert row["time"] == event.time
            data = row["raw"] if event.content_type == "binary" else row["data"].encode()
            assert data == event.data
        elif event.content_type != "binary":
            assert row["data"].encode() == event.data
        elif suffix == ".sqlite":
            assert row["data"] == event.data


def test_a_database_counts_the_streams(store: EventStore, memory_path: Path) -> None:
    path = memory_path / "out.sqlite"
    run(store, path)
    database = sqlite3.connect(path)
    assert database.execute("select stream, events, last_version from streams").fetchall() == [
        ("größe", 4, 4),
        ("s-1", 4, 4),
    ]
    database.close()


def test_parquet_is_typed_and_in_row_groups(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.transfer.parquet._GROUP_EVENTS", 3)
    path = memory_path / "out.parquet"
    run(store, path)
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(number).column(0).statistics for number in range(file.num_row_groups)]
    assert [(group.min, group.max) for group in groups] == [(1, 3), (4, 6), (7, 8)]
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert (types["position"], types["version"], types["time"]) == ("int64", "int64", "timestamp[us, tz=UTC]")


VALUES = [
    ([1, 2, None], "int64", [1, 2, None]),
    ([1, 2.5], "double", [1.0, 2.5]),
    ([True, False], "bool", [True, False]),
    (["a\u2028", "b"], "string", ["a\u2028", "b"]),
    ([1, "a", [2], {"b": 3}, True], "string", ["1", "a", "[2]", '{"b":3}', "true"]),
    ([2**63 - 1], "int64", [2**63 - 1]),
    ([2**63], "string", [str(2**63)]),
    ([2**53 + 1, 0.5], "string", [str(2**53 + 1), "0.5"]),
    ([10**4000], "string", [str(10**4000)]),
    ([-(2**63), 3], "int64", [-(2**63), 3]),
    ([None], "string", [None]),
]


@pytest.mark.parametrize(("values", "type", "expected"), VALUES)
def test_a_value_becomes_a_column_of_the_type_that_holds_all(
    store: EventStore, memory_path: Path, values: list[Any], type: str, expected: list[Any]
) -> None:
    store.append("typed-1", [NewEvent("Typed", {"a": {"b.c": value}}) for value in values])
    path = memory_path / "out.parquet"
    done = export(
        path,
        lambda position: store.read_all(position, types=["Typed", "Bin", "Text"]),
        fields=["position", "category", "data.a.b\\.c", "metadata.k"],
    )
    table = pq.read_table(path)
    assert [str(field.type) for field in table.schema] == ["int64", "string", type, "string"]
    assert table.column(2).to_pylist() == [None] * 4 + expected
    assert table.column(3).to_pylist()[:2] == ["[1,null]", None]
    assert done.events == len(values) + 4


def test_columns_of_values_are_continued(store: EventStore, memory_path: Path) -> None:
    path = memory_path / "out.parquet"
    settings: dict[str, Any] = {"append": True, "fields": ["position", "data.n"]}
    for number in (1, 2):
        store.append("n-1", [NewEvent("N", {"n": number})])
        assert run(store, path, **settings).position == store.head
    assert pq.read_table(path).column("data.n").to_pylist() == [None] * 8 + [1, 2]
    store.append("n-1", [NewEvent("N", {"n": "text"})])
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match=r"data\.n .* another type"):
        run(store, path, **settings)
    with pytest.raises(InvalidArgument, match="its columns are others"):
        run(store, path, append=True, fields=["position"])
    assert path.read_bytes() == before
    run(store, memory_path / "other.parquet", fields=["data.n"])
    with pytest.raises(InvalidArgument, match="no column position"):
        run(store, memory_path / "other.parquet", append=True, fields=["data.n"])
    assert sorted(memory_path.glob("*.tmp")) == []


def test_events_that_come_while_types_are_chosen_wait_for_the_next_export(
    store: EventStore, memory_path: Path
) -> None:
    path = memory_path / "out.parquet"

    def read(position: int) -> Iterator[Event]:
        yield from store.read_all(position)
        store.append("late-1", [NewEvent("Late", {"n": "text"})])

    assert export(path, read, fields=["position", "data.n"]).position == 8


def test_fields_are_known_and_for_parquet(store: EventStore, memory_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="unknown field 'nosuch'"):
        run(store, memory_path / "out.parquet", fields=["nosuch"])
    with pytest.raises(InvalidArgument, match="evlog read -o csv"):
        run(store, memory_path / "out.csv", fields=["position"])


def test_large_events_make_small_batches_and_row_groups(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        store.append("large-1", [NewEvent("Large", "x" * 2000) for _ in range(40)])
    monkeypatch.setattr("evlog.transfer.export._BATCH_BYTES", 150_000)
    monkeypatch.setattr("evlog.transfer.parquet._GROUP_BYTES", 200_000)
    sizes = [len(batch) for batch in in_batches(store.read_all(), 2048)]
    assert max(sizes) <= 120
    assert sum(sizes) == 208
    path = memory_path / "out.parquet"
    run(store, path)
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert max(groups) <= 200
    assert len(groups) > 1
    assert file.read().column("position").to_pylist() == list(range(1, 209))


@pytest.mark.parametrize("frame", [1, 3, 40])
def test_batches_hold_what_the_iterator_gives(memory_path: Path, frame: int) -> None:
    with small_store(memory_path / "frames") as store:
        for first in range(0, 120, frame):
            store.append_many(
                (f"s-{number % 5}", [NewEvent("AB"[number % 2], number, tags=[f"n:{number % 7}"])])
                for number in range(first, min(120, first + frame))
            )
        store.redact(7, 8, reason="a test")
        selections: list[dict[str, Any]] = [
            {}, {"after": 10, "to": 90}, {"types": ["A"]}, {"tags": ["n:3"]}, {"category": "s"},
            {"reverse": True}, {"include_system": True}, {"grep": "11"}, {"limit": 5}, {"types": ["Nosuch"]},
        ]  # fmt: skip
        for selection in selections:
            records = [record for batch in in_batches(store.read_all(**selection), 16) for record in batch]
            assert records == [tuple(event) for event in store.read_all(**selection)]
        with pytest.raises(InvalidArgument), evlog.open(store.path, upcasters=_nothing()) as upcasting:
            list(in_batches(upcasting.read_all(), 16))


def _nothing() -> evlog.Upcasters:
    upcasters = evlog.Upcasters()
    upcasters.register("A", lambda _data, _event: None)
    return upcasters


def test_cloudevents_are_read_by_their_own_library(store: EventStore, memory_path: Path) -> None:
    path = memory_path / "out.cloudevents.jsonl"
    run(store, path)
    found = [JSONFormat().read(None, line) for line in lines_of(path)]
    for cloud, event in zip(found, store.read_all(), strict=True):
        assert (cloud.get_id(), cloud.get_type()) == (str(event.id), event.type)
        assert cloud.get_subject() == event.stream
        assert cloud.get_source() == f"urn:evlog:{store.id}"
        assert cloud.get_time() == event.time
        assert int(cloud.get_extension("sequence")) == event.position
        assert cloud.get_extension("evlogversion") == event.version
        assert cloud.get_extension("correlationid") == event.correlation_id
        assert cloud.get_extension("causationid") == event.causation_id
        assert cloud.get_extension("traceparent") == event.metadata.get("traceparent")
        data = cloud.get_data()
        if event.content_type == "json":
            assert data == event.json()
        else:
            assert data == (event.data if event.content_type == "binary" else event.data.decode())
        tags = cloud.get_extension("evlogtags")
        assert tuple(json.loads(tags or "[]")) == event.tags
    rest = json.loads(found[1].get_extension("evlogmetadata"))
    assert rest == {"k": [1, None]}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".cloudevents.jsonl.gz"])
def test_appending_continues_behind_the_last_position(
    store: EventStore, memory_path: Path, suffix: str
) -> None:
    path, whole = memory_path / f"out{suffix}", memory_path / f"whole{suffix}"
    assert run(store, path, append=True).events == 8
    assert run(store, path, append=True) == (str(path), 0, 8)
    store.append("s-1", [NewEvent("More", 1)])
    assert run(store, path, append=True) == (str(path), 1, 9)
    run(store, whole)
    if ".jsonl" in suffix:
        assert lines_of(path) == lines_of(whole)
    else:
        assert rows_of(path) == rows_of(whole)
    assert sorted(os.listdir(memory_path)) == sorted(["store", path.name, whole.name])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".sqlite"])
@pytest.mark.parametrize("append", [False, True])
def test_a_large_file_is_on_its_way_to_the_device_before_its_sync(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, append: bool
) -> None:
    for _ in range(20):
        store.append("large", [NewEvent("T", {"x": "y" * 10_000}) for _ in range(5)])
    path = memory_path / f"out{suffix}"
    if append:
        run(store, path)
        store.append("large", [NewEvent("T", {"x": "y" * 10_000}) for _ in range(5)])
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(files, "STEP_BYTES", 100_000)
    monkeypatch.setattr(formats, "STEP_BYTES", 100_000)
    monkeypatch.setattr(exports, "_BATCH_BYTES", 100_000)
    monkeypatch.setattr(formats, "_CACHE_BYTES", 1 << 16)  # of SQLite, which writes what is not in it
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, at, length, how: asked.append((at, at + length)))
    monkeypatch.setattr(os, "fsync", lambda _: asked.append((-1, -1)))
    run(store, path, append=append)
    assert max(asked[: asked.index((-1, -1))])[1] > os.path.getsize(path) - 300_000
    assert max(end - at for at, end in asked) < 400_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_that_fails_leaves_the_file_before(store: EventStore, memory_path: Path, suffix: str) -> None:
    path = memory_path / f"out{suffix}"
    run(store, path)
    before = path.read_bytes()

    def fails(after: int) -> Iterator[Event]:
        yield from list(store.read_all(after))[:2]
        raise KeyboardInterrupt

    for append in (False, True):
        with pytest.raises(KeyboardInterrupt):
            export(path, fails, append=append)
    assert path.read_bytes() == before
    assert sorted(os.listdir(memory_path)) == sorted([path.name, "store"])


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664])
def test_a_file_that_is_replaced_keeps_its_mode(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    path = memory_path / "out.jsonl"
    run(store, path)
    path.chmod(mode)
    meanwhile: set[int] = set()

    def events(after: int) -> Iterator[Event]:
        meanwhile.update(stat.S_IMODE(found.stat().st_mode) for found in memory_path.glob("*.tmp"))
        return store.read_all(after)

    for append in (False, True):
        export(path, events, append=append)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert meanwhile == {0o600}


def test_a_full_disk_leaves_the_file_before(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = memory_path / "out.jsonl"
    run(store, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreFull, match="free some space"):
            run(store, path)
    assert path.read_bytes() == before
    assert len(os.listdir(memory_path)) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_first_error_is_not_hidden_by_one_of_closing(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    make = exports._format_of(f"out{suffix}")

    def broken(*arguments: Any) -> Output:
        output = make(*arguments)
        close = output.close

        def fails() -> None:
            close()
            raise ValueError("closed")

        output.close = fails  # type: ignore[method-assign]
        return output

    def no_events(_: int) -> Iterator[Event]:
        raise CorruptionError("log", None, "damaged")

    monkeypatch.setattr(exports, "_format_of", lambda _: broken)
    with pytest.raises(CorruptionError):
        export(memory_path / f"out{suffix}", no_events)
    assert os.listdir(memory_path) == ["store"]


def test_nothing_is_written_into_a_store(store: EventStore, memory_path: Path) -> None:
    (memory_path / "link").symlink_to(memory_path / "store" / "segments")
    before = sorted(memory_path.rglob("*"))
    for place in ("store", "store/segments", "link"):
        with pytest.raises(InvalidArgument, match=r"is in the store .*give a path outside of it"):
            run(store, memory_path / place / "out.jsonl")
    assert sorted(memory_path.rglob("*")) == before
    (memory_path / "out.csv").symlink_to(memory_path / "store" / "lock")  # the link is replaced
    run(store, memory_path / "out.csv")
    assert (memory_path / "out.csv").stat().st_size
    assert not (memory_path / "store" / "lock").stat().st_size


@pytest.mark.parametrize("suffix", [".csv", ".sqlite", ".parquet"])
def test_a_folder_that_takes_no_files_is_named(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = memory_path / f"out{suffix}"
    path.touch()  # the file itself is never opened

    def refuse(place: str, *_: Any) -> None:
        raise PermissionError(errno.EACCES, "x", place)

    monkeypatch.setattr(exports, "_format_of", lambda _: refuse)
    with pytest.raises(StoreAccessDenied, match=f"cannot create {path} .*of its directory"):
        run(store, path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_something_else_is_not_continued(store: EventStore, memory_path: Path, suffix: str) -> None:
    path = memory_path / f"out{suffix}"
    path.write_text("a,b\n1,2\n" if suffix == ".csv" else "something else\n")
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match="cannot append to"):
        run(store, path, append=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_another_store_is_not_continued(store: EventStore, memory_path: Path, suffix: str) -> None:
    path = memory_path / f"out{suffix}"
    run(store, path)
    before = path.read_bytes()
    with small_store(memory_path / "other") as other:
        with pytest.raises(InvalidArgument, match="ends at position 8, the store at 0"):
            run(other, path, append=True, head=other.head)
        other.append("s-1", [NewEvent("Other") for _ in range(9)])
        with pytest.raises(InvalidArgument, match="position 8 is not the store's"):
            run(other, path, append=True, head=other.head)
    assert path.read_bytes() == before
    assert run(store, path, append=True, head=store.head).events == 0


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".cloudevents.jsonl.gz"])
def test_a_file_with_the_content_of_a_redacted_event_is_not_continued(
    store: EventStore, memory_path: Path, suffix: str
) -> None:
    path = memory_path / f"out{suffix}"
    run(store, path)
    store.append("s-1", [NewEvent("More", 1)])
    store.redact(9, reason="it is not in the file yet")
    assert run(store, path, append=True) == (str(path), 1, 9)
    store.redact(3, 9, reason="one is in the file, the other is redacted there")
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match=r"the content of event 3, .* export again without --append"):
        run(store, path, append=True)
    assert path.read_bytes() == before
    assert run(store, path).events == 9
    store.append("s-1", [NewEvent("More", 2)])
    assert run(store, path, append=True).events == 1
    store.redact(store.append("s-1", [NewEvent("More", 3)]).last_position, reason="the file ends before it")
    assert run(store, path, append=True).events == 1
    last = store.append("s-1", [NewEvent("More", 4)]).last_position
    run(store, path, append=True)
    store.redact(last, reason="the file ends with it")
    with pytest.raises(InvalidArgument, match=f"the content of event {last}, "):
        run(store, path, append=True)


@pytest.mark.parametrize(
    ("fields", "has_content"),
    [
        (["position", "data.b"], True),
        (["position", "metadata.k"], False),
        (["position", "data"], True),
        (["position", "tags"], True),
        (["position", "raw", "metadata"], False),
        (["position", "stream", "time"], False),
    ],
)
def test_columns_without_what_was_redacted_are_continued(
    store: EventStore, memory_path: Path, fields: list[str], has_content: bool
) -> None:
    path = memory_path / "out.parquet"
    run(store, path, fields=fields)
    store.redact(1, reason="a test")
    if has_content:
        with pytest.raises(InvalidArgument, match="has the content of event 1,"):
            run(store, path, append=True, fields=fields)
        run(store, path, fields=fields)
    assert run(store, path, append=True, fields=fields).events == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_not_read_for_redactions_that_it_cannot_have(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = memory_path / f"out{suffix}"
    run(store, path)
    store.append("s-1", [NewEvent("More", 1)])
    store.redact(9, reason="after the end of the file")
    output = exports._format_of(str(path))
    monkeypatch.delattr(output, "find_content")
    assert run(store, path, append=True).events == 1


_HEADER = b"position,stream,version,id,type,time,content_type,data,metadata,tags,redacted\n"


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".csv", b"\x7fELF\xd0\xff"),
        (".csv", _HEADER + b"x\n"),
        (".csv", _HEADER + b"1\n"),
        (".jsonl", b"[]\n"),
        (".jsonl", b'{"position":"x"}\n'),
        (".jsonl", b'x\n{"position":5}\n'),
        (".jsonl", b'{"position":1,"data":' + b"[" * 5000 + b"]" * 5000 + b"}\n"),
        (".jsonl", b'{"position":1,"data":' + b"[" * 5000 + b"]" * 5000 + b'}\n{"position":5}\n'),
    ],
)
def test_bytes_of_something_else_are_not_continued(
    store: EventStore, memory_path: Path, suffix: str, content: bytes
) -> None:
    path = memory_path / f"out{suffix}"
    path.write_bytes(content)
    store.redact(2, reason="so that all of it is read")
    with pytest.raises(InvalidArgument, match="cannot append to"):
        run(store, path, append=True)
    assert path.read_bytes() == content


def test_the_end_of_a_file_with_a_long_line_is_found_in_few_reads(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            got = super().read(size)
            self.count += len(got)
            return got

    monkeypatch.setattr(formats, "_PIECE_BYTES", 10)
    file = Counting(b"first\n" + b"x" * 10_000 + b"\n" + b"y" * 10_000 + b"\n")
    formats._skip_to_last_lines(file)
    assert file.read() == b"y" * 10_000 + b"\n"
    assert file.count < 100_000


def test_a_database_with_another_table_events_is_not_continued(store: EventStore, memory_path: Path) -> None:
    path = memory_path / "out.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table events (position text, stream text)")
    with pytest.raises(InvalidArgument, match="cannot append to"):
        run(store, path, append=True)


@pytest.mark.parametrize("append", [False, True])
def test_what_is_not_a_file_is_refused_and_kept(store: EventStore, memory_path: Path, append: bool) -> None:
    folder, pipe = memory_path / "folder.jsonl", memory_path / "pipe.jsonl"
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (folder, pipe):
        with pytest.raises(InvalidArgument, match="is not a file"):
            run(store, path, append=append)
    assert folder.is_dir()
    assert pipe.is_fifo()


def test_a_missing_folder_is_named(store: EventStore, memory_path: Path) -> None:
    with pytest.raises(SystemCallFailed, match="check the folder"):
        run(store, memory_path / "nosuch" / "out.jsonl")


@pytest.mark.parametrize("name", ["out", "out.txt", ".jsonl", "out.gz", "out.jsonl.xz"])
def test_a_suffix_without_a_format_is_refused(store: EventStore, memory_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="names no format"):
        run(store, memory_path / name)


def test_a_missing_library_names_its_extra(
    store: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "evlog.transfer.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExtraNotInstalled, match="pip install 'evlog-store\\[parquet\\]'"):
        run(store, memory_path / "out.parquet")


def test_cloudevents_come_back_as_they_were(store: EventStore, memory_path: Path) -> None:
    path = memory_path / "out.cloudevents.jsonl"
    run(store, path)
    decode = cloudevents_decoder()
    for line, event in zip(lines_of(path), store.read_all(), strict=True):
        stream, (type, id, code, data, metadata) = decode(line)
        assert (stream, type, id) == (event.stream, event.type, event.id_bytes)
        assert (CONTENT_TYPES[code], data) == (event.content_type, event.data)
        again = Event((*event[:8], metadata))
        assert (again.metadata, again.tags) == (event.metadata, event.tags)


def test_numbers_of_the_metadata_come_back_with_all_digits(store: EventStore, memory_path: Path) -> None:
    path = memory_path / "out.cloudevents.jsonl"
    numbers = b'"huge":1e999,"long":%b,"exact":1.000000000000000000001' % (b"9" * 5000)
    store.append("s-1", [NewEvent("T", metadata=b"{%b}" % numbers, correlation_id="c")])
    run(store, path)
    line = lines_of(path)[-1]
    assert cloudevents_decoder()(line)[1][4] == b'{%b,"$correlationId":"c"}' % numbers
    of_others = b'{"specversion":"1.0","id":"1","type":"T","source":"/s","subject":"s",%b}' % numbers
    metadata = cloudevents_decoder()(of_others)[1][4]
    assert metadata == b'{"source":"/s",%b,"$idempotencyKey":"/s 1"}' % numbers


def test_an_event_of_another_producer_keeps_everything(store: EventStore) -> None:
    cloud = {
        "specversion": "1.0", "id": "A-1", "source": "/shop", "type": "com.paid", "subject": "order-9",
        "time": "2026-01-02T03:04:05Z", "partitionkey": "p", "traceparent": "00-1", "data": {"n": 1.50},
    }  # fmt: skip
    stream, event = cloudevents_decoder()(json.dumps(cloud).encode())
    store.append(stream, [NewEvent(event[0], event[3], id=event[1], metadata=event[4])])
    (found,) = store.read("order-9")
    assert found.metadata == {
        "source": "/shop", "time": "2026-01-02T03:04:05Z", "partitionkey": "p", "traceparent": "00-1",
        "$idempotencyKey": "/shop A-1",
    }  # fmt: skip
    assert found.idempotency_key == "/shop A-1"
    assert cloudevents_decoder("mine")(json.dumps(cloud).encode())[0] == "mine"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"specversion": "0.3"}, "is not a CloudEvent of specversion 1.0"),
        ({"id": ""}, "has no id"),
        ({"type": 7}, "has no type"),
        ({"source": None}, "has no source"),
        ({"subject": None}, "has no subject"),
        ({"data_base64": "%"}, "is not base64"),
        ({"datacontenttype": 5}, "a datacontenttype that is not a text"),
        ({"evlogtags": "{}"}, "that evlog did not write"),
        ({"evlogmetadata": "[[1, 2]]"}, "that evlog did not write"),
        ({"evlogtags": "{"}, "that evlog did not write"),
        ({"evlogmetadata": "[1]"}, "that evlog did not write"),
    ],
)
def test_a_line_that_is_no_cloudevent_says_why(change: dict[str, Any], reason: str) -> None:
    cloud = {"specversion": "1.0", "id": "1", "source": "/s", "type": "T", "subject": "s"} | change
    with pytest.raises(InvalidLine, match=reason):
        cloudevents_decoder()(json.dumps(cloud).encode())


KILLED = """
import os, signal, sys, evlog
from evlog.transfer.export import export

def run(path, kill_at=0, append=False):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    with evlog.open(sys.argv[2]) as store:
        def read(position):
            for event in store.read_all(position):
                if event.position == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield event
        export(path, read, store_id=str(store.id), append=append)
    os._exit(0)

for suffix in sys.argv[3:]:
    path = f"{sys.argv[1]}/out{suffix}"
    assert run(path) == 0
    before = open(path, "rb").read()
    for kill_at in (1, 8):
        assert run(path, kill_at) == signal.SIGKILL
        assert open(path, "rb").read() == before, suffix
    assert run(path, append=True) == 0
"""


def test_an_export_that_is_killed_leaves_the_file_that_was_there(
    store: EventStore, memory_path: Path
) -> None:
    folder = memory_path / "killed"
    folder.mkdir()
    assert run_python("-c", KILLED, str(folder), store.path, *SUFFIXES).stderr == ""
    assert sorted(os.listdir(folder)) == sorted(f"out{suffix}" for suffix in SUFFIXES)


def test_an_export_removes_only_what_killed_exports_to_its_file_left(
    store: EventStore, memory_path: Path
) -> None:
    names = ["out.csv.0123abcd.tmp", "out.csv.tmp", "out.csv.0123abcd.tmp.gz", "other.csv.0123abcd.tmp"]
    for name in names:
        (memory_path / name).touch()
    (memory_path / "target").write_bytes(b"kept")
    (memory_path / "out.csv.0123abce.tmp").symlink_to("target")
    (memory_path / "out.csv.0123abcf.tmp").mkdir()
    seen: list[str] = []

    def read(position: int) -> Iterator[Event]:
        yield from store.read_all(position)
        run(store, memory_path / "out.csv")  # meanwhile, to the same file
        seen.extend(name for name in os.listdir(memory_path) if name.startswith("out.csv."))

    export(memory_path / "out.csv", read)
    own = set(seen) - {*names, "out.csv.0123abce.tmp", "out.csv.0123abcf.tmp"}
    assert len(own) == 1
    assert not (memory_path / names[0]).exists()
    assert all((memory_path / name).exists() for name in names[1:])
    assert (memory_path / "out.csv.0123abcf.tmp").is_dir()
    assert not own & set(os.listdir(memory_path))
