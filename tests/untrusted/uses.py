"""Everything that a user can do with a store from another person, and how it may end.

Each use either works or raises an EvlogError, within bounded time and memory, and touches nothing outside
the store.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import evlog
from evlog import CorruptionError, EvlogError, NewEvent

SECONDS = 60
MEMORY_BYTES = 1 << 30
SOUND = "sound"  # what the use `verify` returns when nothing is damaged
SINCE = datetime(2020, 1, 1, tzinfo=UTC)
STREAMS = [f"{category}-{number}" for category in "ab" for number in (1, 2, 3)]
KNOWN_ID = bytes(range(16))


def build(path: str, *, compressed: bool = False) -> None:
    """Make a store that has every kind of file."""
    with evlog.open(path, create=True, segment_events=6) as store:
        store.append("a-1", [NewEvent("Known", {"i": 0}, id=KNOWN_ID)])
        store.set_retention("b-1", max_count=1)
        for number in range(20):
            stream = "ab"[number % 2] + f"-{1 + number % 3}"
            store.append(stream, [NewEvent(f"T{number % 4}", {"i": number}, metadata={"m": number})])
        store.compact(compress=compressed)
        store.append("a-2", [NewEvent("Text", "text", content_type="text")] * 1)
        store.append("a-3", [NewEvent("Binary", b"\0\1", content_type="binary"), NewEvent("T1", {"i": 9})])
        with store.subscribe("reader", category="a", follow=False) as subscription:
            list(subscription)
        store.consume("parker", _refuse, retries=1, on_failure="park", follow=False)
        Path(path, "queue").touch()


def _refuse(event: evlog.Event) -> None:
    raise ValueError(f"no {event.position}")


def _look(event: evlog.Event) -> object:
    if event.content_type != "binary":
        event.json()
    return event.time, event.id, event.metadata, event.category, repr(event)


def _open(path: str) -> evlog.EventStore:
    return evlog.open(path, lock_timeout=2)


def _subscribe(path: str) -> None:
    with _open(path) as store, store.subscribe("reader", follow=False) as subscription:
        for event in subscription:
            _look(event)


def _replay(path: str) -> None:
    with _open(path) as store:
        store.replay_parked("parker", _look)


def _append(path: str) -> None:
    with _open(path) as store:
        for number in range(8):  # past the end of a segment
            store.append("a-1", [NewEvent("T", {"n": number})])
        store.append("a-1", [NewEvent("Known", {"i": 0}, id=KNOWN_ID)])
        store.append("new", [NewEvent("T")], expected=store.stream_version("new"))


def _salvage(path: str) -> None:
    out = f"{path}.salvaged"
    try:
        evlog.salvage_store(path, out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _verify(path: str) -> str:
    return SOUND if evlog.verify_store(path).ok else ""


def _with_store(use: Callable[[evlog.EventStore], object]) -> Callable[[str], None]:
    def run(path: str) -> None:
        with _open(path) as store:
            use(store)

    return run


READING: dict[str, Callable[[str], object]] = {
    "read_all": _with_store(lambda store: [_look(event) for event in store.read_all()]),
    "read_all backwards": _with_store(lambda store: [_look(event) for event in store.read_all(reverse=True)]),
    "read by category": _with_store(lambda store: list(store.read_all(category="a", types=["T1", "T2"]))),
    "read since": _with_store(lambda store: list(store.read_all(since=SINCE))),
    "read streams": _with_store(
        lambda store: [list(store.read(f"{s}-{n}")) for s in "ab" for n in (1, 2, 3)]
    ),
    "read a stream since": _with_store(lambda store: list(store.read("a-1", since=SINCE, reverse=True))),
    "streams": _with_store(lambda store: list(store.streams())),
    "info": _with_store(lambda store: (store.info(), store.head, store.id)),
    "versions": _with_store(lambda store: [store.stream_version(f"a-{n}") for n in range(4)]),
    "policies": _with_store(lambda store: (store.policies(), store.retention("b-1"))),
    "subscriptions": _with_store(lambda store: store.subscriptions()),
    "parked": _with_store(lambda store: store.parked("parker")),
    "verify": _verify,
    "verify quickly": lambda path: evlog.verify_store(path, quick=True),
    "dry run": _with_store(lambda store: store.compact(dry_run=True)),
    "salvage": _salvage,
}
WRITING: dict[str, Callable[[str], object]] = {
    "append": _append,
    "subscribe": _subscribe,
    "replay": _replay,
    "reset": _with_store(lambda store: store.reset_subscription("reader", 1)),
    "retain": _with_store(lambda store: store.set_retention("a-1", max_count=2)),
    "compact": _with_store(lambda store: store.compact(force=True)),
    "delete": _with_store(lambda store: store.delete_stream("a-2")),
    "repair": evlog.repair_store,
    "append again": _append,
}
USES = READING | WRITING


def faults_of(path: str, names: Sequence[str] = tuple(USES), *, sound: bool = False) -> list[str]:
    """Use the store in a child process, and return what went wrong: one text for each use.

    The child has a memory limit, and a time limit for each use. It is forked, which costs a millisecond.

    Args:
        sound: an EvlogError is a fault, too.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            _run_all(path, names, writing, sound=sound)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        faults, begun, ended = [], "", False
        for line in lines:
            kind, _, text = line.rstrip("\n").partition(" ")
            begun = text if kind == "begin" else begun
            ended = kind == "end"
            if kind == "fault":
                faults.append(text)
    status = os.waitpid(child, 0)[1]
    if not ended:
        faults.append(f"{begun}: no end within {SECONDS} s, or killed: wait status {status}")
    return faults


def _run_all(path: str, names: Sequence[str], report: int, *, sound: bool) -> None:
    # What the parent has mapped, all libraries that its tests have loaded, is no part of the limit.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    refused = ""
    for name in names:
        refused = "" if name in WRITING else refused  # it may have repaired what was wrong
        os.write(report, f"begin {name}\n".encode())
        signal.alarm(SECONDS)  # without a handler: it ends the process
        try:
            result = USES[name](path)
            if result == SOUND and refused:
                os.write(report, f"fault verify: it finds no damage, though {refused}\n".encode())
        except EvlogError as error:
            if isinstance(error, CorruptionError) and name in READING:
                refused = refused or f"{name!r} said: {error}"
            if sound:
                os.write(report, f"fault {name}: {error!r}\n".encode())
            if len(str(error).splitlines()) != 1:
                os.write(report, f"fault {name}: a message of several lines: {error!r}\n".encode())
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            places = [
                f"{os.path.basename(frame.filename)}:{frame.lineno}"
                for frame in traceback.extract_tb(sys.exc_info()[2])[-3:]
            ]
            text = f"{type(error).__name__} at {' < '.join(reversed(places))}: {str(error)[:80]!r}"
            os.write(report, f"fault {name}: {text}\n".encode("utf-8", "replace"))
    signal.alarm(0)
    os.write(report, b"end\n")


def tree(directory: Path) -> dict[str, object]:
    """Return everything below a directory: names, kinds, modes, times and contents."""
    found: dict[str, object] = {}
    for root, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            path = Path(root, name)
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found
