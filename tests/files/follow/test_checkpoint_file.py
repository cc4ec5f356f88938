"""The files of a subscription: checkpoints whole or absent, parked events kept, one run at a time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.errors import CorruptionError, InvalidArgument, SubscriptionBusy, UnsupportedFormat
from evlog.files.disk.files import DISK
from evlog.files.follow import checkpoint_file
from evlog.files.follow.checkpoint_file import SubscriptionFiles, list_names
from evlog.files.format import paths
from evlog.files.format.headers import FormatFault
from evlog.files.format.lines import decode_line, encode_line
from evlog.model.checkpoints import MAX_KEPT_NAME_BYTES, Checkpoint, check_kept_name
from evlog.model.events import Event
from evlog.model.filters import EventFilter
from tests.support.programs import next_line, start_python

STORE_ID = "0193b1c2-0000-7000-8000-000000000001"
FILTER = EventFilter("order-42", None, ("A", "B"))
ID = bytes(range(16))
EVENT = Event((17, 3, "order-42", "A", bytes(16), 1, 0, b"{}", None))
OTHER = Event((18, 4, "order-42", "B", bytes(15) + b"\x01", 2, 0, b"{}", None))

HOLDER = """
import sys
from evlog.files.follow.checkpoint_file import SubscriptionFiles
from evlog.files.disk.files import DISK
files = SubscriptionFiles(sys.argv[1], "x", "mail", DISK)
files.acquire()
print("held", flush=True)
sys.stdin.readline()
"""


def files_of(path: Path, name: str = "mail", store_id: str = STORE_ID) -> SubscriptionFiles:
    return SubscriptionFiles(str(path), store_id, name, DISK)


@pytest.fixture
def files(memory_path: Path) -> Iterator[SubscriptionFiles]:
    """Those of a subscription that is running."""
    opened = files_of(memory_path)
    opened.acquire()
    yield opened
    opened.release()


@pytest.fixture
def holder(memory_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the subscription until it is given a line."""
    with start_python("-c", HOLDER, str(memory_path)) as process:
        assert next_line(process) == "held\n"
        yield process
        process.kill()


# --- names


@pytest.mark.parametrize(
    "name", ["a", "mail", "ö" * 50, "../../etc/passwd", ".hidden", "a b", "%", "x" * 100]
)
def test_a_name_is_1_to_100_bytes_of_printable_text(name: str) -> None:
    assert check_kept_name(name) == name


@pytest.mark.parametrize("name", ["", "ö" * 51, "x" * 101, "a\nb", "\0", "\ud800", 7])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="subscription name"):
        check_kept_name(name)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
        lambda s: len(s.encode()) <= MAX_KEPT_NAME_BYTES
    )
)
def test_every_name_has_a_file_name_of_its_own_that_is_safe_everywhere(name: str) -> None:
    path = paths.subscription_path("S", name, "parked")
    directory, _, file_name = path.rpartition("/")
    assert directory == "S/subscriptions"
    assert paths.maybe_parse_subscription_name(file_name) == (name, "parked")
    assert file_name == file_name.lower()
    assert file_name.isascii()
    assert not file_name.startswith(".")
    assert len(file_name) <= 255 - len(paths.TEMPORARY)


def test_names_that_differ_in_case_have_files_that_differ_otherwise() -> None:
    assert paths.subscription_path("S", "Mail", "json") == "S/subscriptions/%4dail.json"
    assert paths.subscription_path("S", "mail", "json") == "S/subscriptions/mail.json"


@pytest.mark.parametrize(
    "file_name",
    ["Mail.json", "mail.json.tmp", "mail", ".json", "%zz.json", "%4Dail.json", "%61.json", "%%!.json"],
)
def test_a_file_name_that_evlog_did_not_make_is_not_understood(file_name: str) -> None:
    assert paths.maybe_parse_subscription_name(file_name) is None


def test_names_are_listed_in_order_and_leftovers_are_not(memory_path: Path) -> None:
    assert list_names(str(memory_path)) == []
    for name in ("b", "A", "ä"):
        files = files_of(memory_path, name)
        files.acquire()
        files.create(Checkpoint(0, None, EventFilter()))
        files.release()
    (memory_path / "subscriptions" / "c.json.tmp").touch()
    (memory_path / "subscriptions" / "d.parked").touch()
    assert list_names(str(memory_path)) == ["A", "b", "ä"]


# --- the checkpoint


@pytest.mark.parametrize("filter", [EventFilter(), FILTER, EventFilter(category="ö"), EventFilter(types=())])
def test_a_checkpoint_reads_back_as_it_was_saved(files: SubscriptionFiles, filter: EventFilter) -> None:
    assert files.load() is None
    files.create(Checkpoint(0, None, filter))
    files.save(Checkpoint(17, ID, filter))
    saved = files.load()
    assert saved is not None
    assert saved._replace(time_us=0) == Checkpoint(17, ID, filter)
    assert saved.time_us > 0


def test_a_checkpoint_needs_no_lock_to_be_read(files: SubscriptionFiles, memory_path: Path) -> None:
    files.create(Checkpoint(17, ID, FILTER))
    assert files_of(memory_path).load() == files.load()


def test_every_flipped_bit_of_a_checkpoint_is_found(files: SubscriptionFiles) -> None:
    files.create(Checkpoint(17, ID, FILTER))
    path = Path(files.path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(CorruptionError):
                files.load()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\0" * 200, encode_line({"format": 1}), encode_line({})])
def test_what_is_not_a_checkpoint_is_damage(files: SubscriptionFiles, content: bytes) -> None:
    Path(files.path).write_bytes(content)
    with pytest.raises(CorruptionError):
        files.load()


def test_a_checkpoint_of_another_store_or_name_is_refused(
    files: SubscriptionFiles, memory_path: Path
) -> None:
    files.create(Checkpoint(17, ID, FILTER))
    with pytest.raises(CorruptionError, match="another"):
        files_of(memory_path, store_id="x").load()
    Path(paths.subscription_path(str(memory_path), "other", "json")).write_bytes(
        Path(files.path).read_bytes()
    )
    with pytest.raises(CorruptionError, match="another"):
        files_of(memory_path, "other").load()


def test_a_checkpoint_of_a_newer_evlog_is_not_called_damaged(files: SubscriptionFiles) -> None:
    Path(files.path).write_bytes(encode_line({"format": 2, "news": True}))
    with pytest.raises(UnsupportedFormat):
        files.load()


def test_a_line_is_json_with_its_crc_at_the_end() -> None:
    line = encode_line({"a": "ö"})
    assert line == b'{"a":"\\u00f6","crc32":"824b4d25"}\n'
    assert decode_line(line) == {"a": "ö"}
    for bad in (line[:-1], line + b"x", b"", b"\n", b',"crc32":"00000000"}\n'):
        with pytest.raises(FormatFault):
            decode_line(bad)


# --- parked events


def test_parked_events_are_kept_with_their_errors_until_they_are_taken_off(
    files: SubscriptionFiles, memory_path: Path
) -> None:
    assert files.parked() == []
    files.park(EVENT, "boom\n\ud800", 3)
    files.park(OTHER, "bang", 1)
    first, second = files_of(memory_path).parked()
    assert first._replace(time_us=0) == (17, "order-42", 3, "A", UUID(int=0), "boom\n\ud800", 3, 0)
    assert (second.position, second.error) == (18, "bang")
    files.unpark(17)
    assert [event.position for event in files.parked()] == [18]
    files.unpark(18)
    assert files.parked() == []
    assert not Path(paths.subscription_path(str(memory_path), "mail", "parked")).exists()


def test_an_event_that_fails_again_keeps_its_place_with_the_newer_error(files: SubscriptionFiles) -> None:
    files.park(EVENT, "boom", 3)
    files.park(OTHER, "bang", 1)
    files.park(EVENT, "boom again", 4)
    assert [(event.position, event.error, event.attempts) for event in files.parked()] == [
        (17, "boom again", 4),
        (18, "bang", 1),
    ]


def test_what_no_longer_counts_is_in_the_file_only_until_the_end_of_the_change(memory_path: Path) -> None:
    path = Path(paths.subscription_path(str(memory_path), "mail", "parked"))
    files = files_of(memory_path)
    files.acquire()
    files.park(EVENT, "ann@example.org", 1)
    files.park(OTHER, "first", 1)
    files.park(OTHER, "second", 2)
    files.release()
    files.acquire()
    files.unpark(EVENT.position)
    files.release()
    (line,) = path.read_bytes().splitlines()
    assert b"second" in line
    assert [event.error for event in files.parked()] == ["second"]
    files.acquire()
    files.park(EVENT, "ann@example.org", 1)
    files.delete()
    files.release()
    assert not path.exists()


def test_an_event_that_fails_again_and_again_takes_little_space(
    files: SubscriptionFiles, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "_SPARE_BYTES", 1000)
    path = Path(paths.subscription_path(str(memory_path), "mail", "parked"))
    files.park(OTHER, "bang", 1)
    for attempts in range(1, 100):
        files.park(EVENT, "boom", attempts)
        assert path.stat().st_size < 2000
        assert [event.attempts for event in files_of(memory_path).parked()] == [1, attempts]


@pytest.mark.parametrize("torn", [b'{"position":19', b"\0" * 5000, b"junk\n" * 1000])
def test_a_torn_line_was_never_promised_and_the_next_takes_its_place(memory_path: Path, torn: bytes) -> None:
    files = files_of(memory_path)
    files.acquire()
    files.park(EVENT, "boom", 3)
    files.release()
    path = Path(paths.subscription_path(str(memory_path), "mail", "parked"))
    with path.open("ab") as file:
        file.write(torn)
    files.acquire()
    assert len(files.parked()) == 1
    files.park(OTHER, "bang", 1)
    files.release()
    assert [event.position for event in files.parked()] == [17, 18]
    assert path.read_bytes().count(b"\n") == 2


def test_a_damaged_line_that_others_follow_is_an_error(files: SubscriptionFiles, memory_path: Path) -> None:
    files.park(EVENT, "boom", 3)
    files.park(OTHER, "bang", 1)
    path = Path(paths.subscription_path(str(memory_path), "mail", "parked"))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"boom", b"boon"))
    with pytest.raises(CorruptionError) as caught:
        files.parked()
    assert caught.value.offset == 0


def test_a_new_subscription_inherits_nothing_from_one_that_was_removed_halfway(
    files: SubscriptionFiles,
) -> None:
    files.create(Checkpoint(17, ID, FILTER))
    files.park(EVENT, "boom", 3)
    os.unlink(files.path)  # as far as a crash in `remove_locked` may have come
    files.create(Checkpoint(0, None, FILTER))
    assert files.parked() == []


# --- the lock


def test_one_run_at_a_time_in_this_process_and_in_others(
    memory_path: Path, holder: subprocess.Popen[str]
) -> None:
    files = files_of(memory_path)
    assert files.is_running()
    with pytest.raises(SubscriptionBusy) as caught:
        files.acquire()
    assert caught.value.name == "mail"
    if os.path.exists("/proc/locks"):
        assert f"already running in process {holder.pid} (python" in str(caught.value)
    other = files_of(memory_path, "other")
    other.acquire()
    other.release()
    holder.kill()
    holder.wait()
    assert not files.is_running()
    files.acquire()  # at once: its lock died with it
    with pytest.raises(SubscriptionBusy):
        files_of(memory_path).acquire()
    assert files.is_running()
    assert files_of(memory_path).is_running()
    files.release()
    assert not files_of(memory_path).is_running()


def test_asking_whether_it_runs_makes_no_file_and_needs_no_permission(memory_path: Path) -> None:
    files = files_of(memory_path)
    assert not files.is_running()
    assert not (memory_path / "subscriptions").exists()
    files.acquire()
    os.chmod(paths.subscription_path(str(memory_path), "mail", "lock"), 0o444)
    assert files_of(memory_path).is_running()
    files.release()
    assert not files_of(memory_path).is_running()


def test_removing_takes_everything_and_the_name_can_be_used_again(memory_path: Path) -> None:
    files = files_of(memory_path)
    for _ in range(2):
        files.acquire()
        files.create(Checkpoint(17, ID, FILTER))
        files.park(EVENT, "boom", 3)
        files.delete()
        files.release()
        assert os.listdir(memory_path / "subscriptions") == []


def test_a_lock_whose_name_was_removed_meanwhile_is_nobodys(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = paths.subscription_path(str(memory_path), "mail", "lock")
    files = files_of(memory_path)
    files.acquire()
    files.release()
    acquire = files._lock.maybe_acquire

    def too_late() -> object:
        monkeypatch.setattr(files._lock, "maybe_acquire", acquire)
        files._lock.open()
        os.unlink(path)  # another process deletes the subscription between our open and our lock
        return acquire()

    monkeypatch.setattr(files._lock, "maybe_acquire", too_late)
    files.acquire()
    assert os.path.exists(path)
    with pytest.raises(SubscriptionBusy):
        files_of(memory_path).acquire()
    files.release()
