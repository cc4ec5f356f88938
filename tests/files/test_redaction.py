"""Redaction in a directory: what files hold afterwards, and what damage, interruption and forgery lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

import evlog
from evlog import CorruptionError, EventStore, NewEvent
from evlog.files.compaction.commit import append_started
from evlog.files.compaction.compact import _plan as make_plan
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.disk.processes import Workers
from evlog.files.follow import snapshot_file
from evlog.files.format import paths
from evlog.files.format.removed_events import event_column
from evlog.model.history import HistoryPiece
from evlog.model.redaction import record_digest, redacted_record
from evlog.transfer.export import export
from evlog.transfer.fork import fork
from evlog.transfer.formats import rows_of
from tests.support.forge import DATA, forge, read_frames
from tests.support.helpers import engine_of, flip_bit, segment_files

SECRET = "Frieda Mustermann"


def secret(number: int) -> NewEvent:
    text = f"{SECRET} {number}."
    return NewEvent("T", {"name": text}, metadata={"by": text}, tags=[text], idempotency_key=f"k{number}")


@pytest.fixture
def secrets(store: EventStore) -> EventStore:
    """Events with secrets at the positions 1 to 20, in several sealed segments and the active one."""
    for number in range(1, 21):
        store.append(f"s-{number % 3}", [secret(number)])
    return store


def holds(path: str, *numbers: int) -> list[int]:
    """Return the numbers of the secrets that files of the store still hold, compressed ones too."""
    content = b""
    for folder, _, names in os.walk(path):
        for name in names:
            raw = Path(folder, name).read_bytes()
            content += raw
            if name.endswith(paths.COMPRESSED_LOG.rpartition(".")[2]):
                content += unpacked(path, name)
    return [number for number in numbers if f"{SECRET} {number}.".encode() in content]


def unpacked(path: str, name: str) -> bytes:
    store = evlog.open(path)
    log = engine_of(store)._opened()
    (part,) = (
        part for part in log.sealed if name.startswith(f"{part.first_position:020d}.{part.info.generation}.")
    )
    content = part.segment.log_bytes(0, part.segment.end)
    store.close()
    return bytes(content)


def fold_texts(store: EventStore) -> None:
    """Keep a snapshot of all data."""
    texts = evlog.Fold(lambda state, event: [*state, event.data.decode()], list, name="texts")
    store.state(None, texts, snapshot="texts")


def test_a_compaction_deletes_snapshots_that_an_interrupted_redaction_has_left(secrets: EventStore) -> None:
    fold_texts(secrets)
    (event,) = (event for event in secrets.read_all() if event.position == 2)
    engine_of(secrets).redact([event], "r")  # what a killed `redact` has done
    assert holds(secrets.path, 2) == [2]
    secrets.compact()
    assert holds(secrets.path, 2) == []
    fold_texts(secrets)
    secrets.compact()
    assert [info.name for info in secrets.snapshots()] == ["texts"]


def damaged(secrets: EventStore, damage: str) -> None:
    """Keep two snapshots of all data, and damage them so that they still hold it."""
    fold_texts(secrets)
    texts = evlog.Fold(lambda state, event: [*state, event.data.decode()], list, name="texts")
    secrets.state("s-2", texts, snapshot="of S")
    for name in os.listdir(directory := paths.snapshots_path(secrets.path)):
        if name == "lock":
            continue
        path = Path(directory, name)
        raw = path.read_bytes()
        if damage == "header":
            path.write_bytes(b"x" + raw)
        elif damage == "content":
            path.write_bytes(raw + b"x")
        else:
            path.rename(path.with_name(f"other{name[name.index('.') :]}"))


@pytest.mark.parametrize("damage", ["header", "content", "name"])
def test_damaged_snapshots_are_listed_and_deleted_by_a_redaction(secrets: EventStore, damage: str) -> None:
    damaged(secrets, damage)
    names = [("other", None), ("other", "s-2")] if damage == "name" else [("of S", "s-2"), ("texts", None)]
    assert [(info.name, info.stream) for info in secrets.snapshots()] == names
    assert all(info.damage for info in secrets.snapshots())
    assert secrets.redact(2, reason="r").snapshots == tuple(dict.fromkeys(name for name, _ in names))
    assert os.listdir(paths.snapshots_path(secrets.path)) == ["lock"]


@pytest.mark.parametrize("damage", ["header", "content", "name"])
def test_a_compaction_and_a_backup_delete_damaged_snapshots(
    secrets: EventStore, memory_path: Path, damage: str
) -> None:
    out = str(memory_path / "out")
    evlog.backup_store(secrets.path, out)
    with evlog.open(out) as copy:
        damaged(copy, damage)
    damaged(secrets, damage)
    (event,) = (event for event in secrets.read_all() if event.position == 2)
    engine_of(secrets).redact([event], "r")  # what a killed `redact` has done
    secrets.compact()
    evlog.backup_store(secrets.path, out)
    for path in (secrets.path, out):
        assert os.listdir(paths.snapshots_path(path)) == ["lock"]
        assert holds(path, 2) == []


@pytest.mark.parametrize(
    "name", [".log", "%zz.log", "a.stream", "a.x.stream", "%0a.log", "A.log", "a.1.stream"]
)
def test_a_file_that_cannot_be_a_snapshot_is_not_listed(secrets: EventStore, name: str) -> None:
    directory = Path(paths.snapshots_path(secrets.path))
    directory.mkdir()
    (directory / name).write_bytes(b"x")
    assert secrets.snapshots() == []


def test_a_compaction_removes_what_a_killed_fold_has_left(
    secrets: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fold_texts(secrets)
    assert secrets.snapshots() == []
    secrets.redact(2, reason="r")
    secrets.compact()
    assert holds(secrets.path, 2) == []
    assert os.listdir(paths.snapshots_path(secrets.path)) == ["lock"]


def interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_backup_deletes_snapshots_of_the_copy_that_may_hold_what_is_redacted(
    secrets: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(memory_path / "out")
    evlog.backup_store(secrets.path, out)
    with evlog.open(out) as copy:
        fold_texts(copy)
    evlog.backup_store(secrets.path, out)
    assert os.listdir(paths.snapshots_path(out)) != ["lock"]  # nothing is redacted
    secrets.redact(2, reason="r")
    secrets.compact()
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_file.SnapshotFile, "delete", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evlog.backup_store(secrets.path, out)
    evlog.backup_store(secrets.path, out)
    assert holds(out, 2) == []
    with evlog.open(out) as copy:
        fold_texts(copy)
    evlog.backup_store(secrets.path, out)
    with evlog.open(out) as copy:
        assert [info.name for info in copy.snapshots()] == ["texts"]


def test_no_file_holds_what_was_redacted_once_it_is_compacted(secrets: EventStore) -> None:
    secrets.redact(2, 3, 19, reason="r")
    assert holds(secrets.path, 2, 3, 19, 20) == [2, 3, 19, 20]
    plan = secrets.compact(dry_run=True)
    assert plan.events_erased == 3
    before = list(secrets.read_all(include_system=True))
    done = secrets.compact()
    assert (done.events_erased, done.events_removed) == (3, 0)
    assert holds(secrets.path, *range(1, 21)) == [n for n in range(1, 21) if n not in (2, 3, 19)]
    assert list(secrets.read_all(to=21, include_system=True)) == before
    assert secrets.compact().events_erased == 0
    assert evlog.verify_store(secrets.path).ok


def test_compressed_files_lose_it_too(secrets: EventStore) -> None:
    pytest.importorskip("zstandard")
    for number in range(21, 200):
        secrets.append("s-0", [secret(number)])
    secrets.compact(compress=True)
    assert segment_files(secrets, paths.COMPRESSED_LOG)
    assert holds(secrets.path, 5, 6) == [5, 6]
    secrets.redact(5, reason="r")
    assert secrets.compact().events_erased == 1
    assert segment_files(secrets, paths.COMPRESSED_LOG)
    assert holds(secrets.path, 5, 6) == [6]


def test_requests_of_group_commit_are_overwritten_on_the_device(
    secrets: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Path(paths.queue_path(secrets.path))
    queue.write_bytes(bytes(12288) + secret(4).data["name"].encode())
    secrets.redact(4, reason="r")
    synced: list[bytes] = []
    sync = Disk.sync

    def note(disk: Disk, file: WriteFile) -> None:
        sync(disk, file)
        if file.path == str(queue):
            synced.append(queue.read_bytes())

    monkeypatch.setattr(Disk, "sync", note)
    secrets.compact()
    assert holds(secrets.path, 4) == []
    assert synced == [queue.read_bytes()]
    assert len(synced[0]) > 12288


def test_what_is_redacted_and_hidden_leaves_no_trace_of_its_content(secrets: EventStore) -> None:
    secrets.redact(1, 4, reason="r")
    secrets.set_retention("s-1", before=3)
    assert secrets.compact().events_removed == 2
    assert holds(secrets.path, 1, 4) == []
    log = engine_of(secrets)._opened()
    removed = [part.removed.rows() for part in log.sealed if part.removed is not None]
    assert [crc for rows in removed for crc in event_column(rows, "content_crc")] == [0, 0]
    retry = secrets.append("s-1", [secret(1)])
    assert retry.duplicate


def test_a_resumed_compaction_also_erases_what_was_redacted_since(secrets: EventStore) -> None:
    """An earlier compaction was interrupted after it had recorded its cut-off."""
    secrets.redact(1, reason="r")
    engine = engine_of(secrets)
    log, writer = engine._refreshed(), engine._open_writer()
    append_started(log, writer, make_plan(log, None, Workers(1)))
    secrets.append("s-1", [secret(30)])
    secrets.redact(5, secrets.last("s-1").id, reason="r")  # type: ignore[union-attr]
    done = secrets.compact()
    assert (done.resumed, done.events_erased) == (True, 3)
    assert holds(secrets.path, 1, 5, 30, 6) == [6]


def test_a_redaction_that_is_damaged_shows_nothing_rather_than_too_much(secrets: EventStore) -> None:
    position = secrets.redact(2, reason="r").position
    secrets.close()
    log = max(Path(secrets.path, "segments").glob("*.log"))
    flip_bit(log, b'{"events":[{"position":2', 30)
    with evlog.open(secrets.path) as store:
        for events in (store.read("s-2"), store.read_all()):
            with pytest.raises(CorruptionError):
                list(events)
    report = evlog.verify_store(secrets.path)
    assert position in [finding.position for finding in report.findings]


@pytest.mark.parametrize("change", ["erased by nobody", "not what was redacted", "not what was pinned"])
def test_verify_finds_events_that_no_redaction_accounts_for(store: EventStore, change: str) -> None:
    for number in range(12):
        store.append("s", [NewEvent("T", {"n": number})])
    pin = store.verify().digest
    store.redact(2, reason="r")
    frames = read_frames(store, 0)
    if change == "erased by nobody":  # in the form of a redacted event, with the right digest
        record = frames[2][0]
        frames[2][0] = list(redacted_record(tuple(record), record_digest(tuple(record))))
    elif change == "not what was redacted":  # and is not erased yet
        frames[1][0][DATA] = b'{"n":7}'
    else:
        frames[2][0][DATA] = b'{"n":7}'
    forge(store, 0, frames)
    report = evlog.verify_store(store.path, against=pin)
    found = {finding.kind for finding in report.findings if finding.severity == "damage"}
    assert (
        found
        == {
            "erased by nobody": {"redacted"},
            "not what was redacted": {"redacted", "digest"},
            "not what was pinned": {"digest"},
        }[change]
    )


def test_a_salvaged_store_shows_no_more_than_the_damaged_one(secrets: EventStore, tmp_path: Path) -> None:
    secrets.redact(2, 5, reason="r")
    secrets.close()
    evlog.salvage_store(secrets.path, tmp_path / "out")
    with evlog.open(tmp_path / "out") as out:
        assert [event.redacted for event in out.read_all(to=6)] == [False, True, False, False, True, False]
        out.compact()
    assert holds(str(tmp_path / "out"), 2, 5, 6) == [6]


def test_a_fork_from_before_a_redaction_has_no_content(secrets: EventStore, tmp_path: Path) -> None:
    secrets.redact(2, reason="request 881")
    with evlog.open(tmp_path / "out", create=True) as out:
        fork(secrets, out, at=10)
        assert [event.position for event in out.read_all() if event.redacted] == [2]
        assert [(made.reason, made.positions) for made in out.redactions()] == [("request 881", (2,))]
        assert out.verify().ok
    assert holds(str(tmp_path / "out"), 2, 3) == [3]


@pytest.mark.parametrize("calls", [0, 1])
def test_a_fork_that_is_killed_before_its_redactions_is_never_a_store(
    secrets: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    secrets.redact(2, reason="r")
    secrets.redact(3, reason="s")
    with evlog.open(tmp_path / "out", create=True) as out:

        def fail_later(piece: HistoryPiece) -> None:
            if piece.after == 10 + calls:
                raise InterruptedError
            type(out.engine).append_history(out.engine, piece)

        monkeypatch.setattr(out.engine, "append_history", fail_later)
        with pytest.raises(InterruptedError):
            fork(secrets, out, at=10)
        monkeypatch.undo()
        assert out.standing.is_unfinished_fork
        assert out.verify().ok
        fork(secrets, out, at=10)
        assert [made.reason for made in out.redactions()] == ["r", "s"]
        assert out.verify().ok


def test_no_form_of_export_shows_more_than_what_stays(secrets: EventStore, tmp_path: Path) -> None:
    secrets.redact(2, reason="r")
    for name in ("out.jsonl", "out.csv", "out.cloudevents.jsonl"):
        export(tmp_path / name, secrets.read_all, store_id=str(secrets.id))
        line = (tmp_path / name).read_text().splitlines()[1 + name.endswith("csv")]
        assert str(secrets.get(2).id) in line
        assert "null" in line
        assert SECRET not in line
        assert "$redacted" not in line
    assert "$redacted" not in "".join(map(str, rows_of(list(secrets.read_all()))))
