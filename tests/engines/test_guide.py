"""The guide's page of engines: its table, and its test module on an engine of another package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import evlog
from evlog.engine import Capabilities
from evlog.engines import keyed
from evlog.engines.dynamodb import engine as dynamodb
from evlog.engines.kafka.client import Topic
from evlog.engines.kafka.engine import capabilities_of
from evlog.engines.nats.appends import largest_event_bytes
from evlog.engines.nats.engine import capabilities_of as nats_capabilities
from evlog.engines.postgresql.engine import PostgresqlEngine
from tests.support import memory_engine
from tests.support.programs import ROOT
from tests.support.readme import GUIDE

PAGE = next(page for page in GUIDE if page.name.endswith("engines.md"))
PACKAGE = {
    "evlog_memory-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: evlog-memory\nVersion: 1.0\n",
    "evlog_memory-1.0.dist-info/entry_points.txt": "[evlog.engines]\nmemory = evlog_memory:open_engine\n",
}
SOURCE = Path(memory_engine.__file__).read_text("utf-8")


def cell(value: object) -> str:
    words = {None: "no limit", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def test_the_table_shows_the_capabilities(tmp_path: Path) -> None:
    with evlog.open(tmp_path / "store", create=True) as store:
        directory = store.capabilities
    server = object.__new__(PostgresqlEngine)
    server._sync = True
    topic = capabilities_of(Topic("", 1, max_message_bytes=1048588, replicas=3, min_in_sync=2))
    cluster = nats_capabilities(largest_event_bytes(1 << 20), 3)
    engines: list[Capabilities] = [directory, server.capabilities, cluster, topic, dynamodb.CAPABILITIES]
    names = [name for name in vars(directory) if name not in ("engine", "durability")]
    rows = ["| capability | " + " | ".join(each.engine for each in engines) + " |"]
    rows.append("|---" * (len(engines) + 1) + "|")
    rows += [
        f"| `{name}` | " + " | ".join(cell(getattr(each, name)) for each in engines) + " |" for name in names
    ]
    assert "\n".join(rows) in PAGE.text


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder like one where pip installs, with the engine in memory as another's package."""
    for name, text in PACKAGE.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text)
    return tmp_path / "site"


def run_suite(site: Path, source: str, test: str = "test") -> subprocess.CompletedProcess[str]:
    """Run the guide's test module on an engine, away from this repository's own settings of pytest."""
    leases = f"from evlog.engines import keyed\nkeyed.LEASE_SECONDS = {keyed.LEASE_SECONDS}\n"
    (site / "evlog_memory.py").write_text(f"{source}\n{leases}")
    (code,) = (block.code for block in PAGE.blocks if "Conformance" in block.code)
    folder = site.parent / "project"
    folder.mkdir()
    (folder / "test_memory.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", test],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_engine_runs_the_suite(site: Path) -> None:
    done = run_suite(site, SOURCE)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "test"),
    [
        (
            "self._database.version(stream) for",
            "1 + self._database.version(stream) for",
            "the_expected_version_decides",
        ),
        ("if id in found}", "if False}", "a_retry_is_a_duplicate"),
        ("event.version <= last_version", "event.version < last_version", "read_by_version"),
        ('raise Unsupported(NAME, "retention")', "return None", "retention_hides"),
    ],
)
def test_an_engine_with_a_fault_fails_in_the_suite(site: Path, right: str, wrong: str, test: str) -> None:
    assert right in SOURCE
    done = run_suite(site, SOURCE.replace(right, wrong), test)
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout
