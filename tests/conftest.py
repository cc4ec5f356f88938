"""What all tests share: hypothesis profiles, a clock that a test sets, and randomness that repeats.

`HYPOTHESIS_PROFILE=long` makes every property test look fifty times as far, at new examples in each run. The
quick profile, which CI runs, looks at the same examples each time: a rare fault stops no unrelated change.
`EVLOG_TEST_HASH_BITS=2` cuts the hashes of streams, types and ids to two bits, here and in every process that
a test starts: all tests but those of the hashes' own bytes must pass with it, too.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Tests start thousands of processes: with this variable, which images set, each would compile evlog again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

HASHES_ARE_CUT = bool(os.environ.get("EVLOG_TEST_HASH_BITS"))
if HASHES_ARE_CUT:  # before anything of evlog is imported
    _CUT = Path(__file__).parent / "support" / "cut_hashes"
    runpy.run_path(str(_CUT / "sitecustomize.py"))
    sys.path.append(str(_CUT))  # tests give it to the processes that they start
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_CUT), os.environ.get("PYTHONPATH")]))

# A failed `assert` of these shows what differs, as one in a test's own module does.
pytest.register_assert_rewrite(
    *(f"tests.{name}" for name in ("concurrency", "crash", "engines", "golden", "property", "support"))
)

from evlog import EventStore  # noqa: E402
from tests.support.following import Script  # noqa: E402
from tests.support.helpers import Clock, FixedRandom, content, small_store  # noqa: E402
from tests.support.programs import end_started  # noqa: E402

# A background process of a shell ignores Ctrl-C, one of nohup SIGHUP: tests of these signals would not end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A server that takes seconds to start is started once: one process runs all tests of such a folder or module.
_SHARE_A_SERVER = (
    "tests/adapters/eventsourcing/test_postgresql.py",
    "tests/engines/dynamodb/",
    "tests/engines/kafka/",
    "tests/engines/nats/",
    "tests/web/",
)

_COMMON = {
    "deadline": None,  # a slow machine is not a failure
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("quick", derandomize=True, max_examples=40, stateful_step_count=25, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("long", max_examples=2000, stateful_step_count=60, **_COMMON)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "exact_hashes: needs the hashes as they are")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run tests that share a server in one worker, and all cases of a test: that is less to schedule.

    xdist's own groups do nothing with pytest 9.2.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda nodeid: next(
        filter(nodeid.startswith, _SHARE_A_SERVER), nodeid.partition("[")[0]
    )
    return scheduler


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have the garbage collector not look again and again at the thousands of tests, which are all kept."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests of exact bytes where the hashes in those bytes are cut."""
    for item in items:
        if HASHES_ARE_CUT and item.get_closest_marker("exact_hashes"):
            item.add_marker(pytest.mark.skip(reason="the hashes are cut by EVLOG_TEST_HASH_BITS"))


@pytest.fixture(scope="session", autouse=True)
def _short_leases() -> Iterator[None]:
    """Shorten leases, so that a busy name is noticed in half a second; slow machines still renew in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evlog.engines.keyed.LEASE_SECONDS", 2.0)
        yield


@pytest.fixture(autouse=True)
def _processes_end() -> Iterator[None]:
    """End the processes that a failed test has left."""
    yield
    end_started()


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory where there is such a place: syncs cost nothing in it."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="evlog-test-") as directory:
        yield Path(directory)


@pytest.fixture
def store(memory_path: Path) -> Iterator[EventStore]:
    """An empty store whose segments hold eight events."""
    with small_store(memory_path / "store") as opened:
        yield opened


@pytest.fixture
def unchanged(store: EventStore) -> Iterator[Callable[[], None]]:
    """Call it before something that is to be refused: at the end every byte of the log must be as it was."""
    before: list[Any] = []
    yield lambda: before.append(content(store))
    assert before
    assert content(store) == before[-1]


@pytest.fixture
def no_writer_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have verify not wait for a missing index, though the manifest was made a moment ago."""
    monkeypatch.setattr("evlog.files.check.files._INDEXING_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of day, standing still until the test moves it."""
    fixed = Clock()
    monkeypatch.setattr(time, "time_ns", fixed)
    return fixed


@pytest.fixture
def fixed_random(monkeypatch: pytest.MonkeyPatch) -> FixedRandom:
    """The same tags and ids at every run."""
    fixed = FixedRandom()
    monkeypatch.setattr(os, "urandom", fixed)
    return fixed


@pytest.fixture
def other(store: EventStore) -> Iterator[EventStore]:
    """Another writer's handle of the same store."""
    with small_store(store.path) as opened:
        yield opened


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Notifications and time as a test says."""
    return Script(monkeypatch)
