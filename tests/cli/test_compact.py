"""`evlog compact`: what it prints, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

import evlog as library
from tests.cli.conftest import Evlog


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    evlog("init", "--segment-events", "8")
    evlog("append", "--lines", "--batch", "2", "s-1", "T", stdin=b"1\n" * 30)
    evlog("append", "--lines", "--batch", "2", "t-1", "T", stdin=b"1\n" * 10)
    evlog("retain", "--category", "s", "--max-count", "3")
    return evlog


def test_compact_prints_a_summary(filled: Evlog) -> None:
    line = filled("compact").line
    assert list(line) == [
        "position",
        "events_removed",
        "segments_before",
        "segments_after",
        "bytes_before",
        "bytes_after",
        "resumed",
        "segments_compressed",
        "uncompressed_bytes",
        "compressed_bytes",
        "dry_run",
    ]
    assert (line["position"], line["events_removed"], line["resumed"]) == (41, 27, False)
    assert line["bytes_after"] < line["bytes_before"]
    assert len(filled("read").lines) == 13
    assert filled("compact").line["events_removed"] == 0


def test_a_dry_run_prints_each_rule_and_stream_and_changes_nothing(filled: Evlog) -> None:
    first, summary = filled("compact", "--dry-run").lines
    assert first["rule"] == {"category": "s", "$maxCount": 3}
    assert (first["stream"], first["events"]) == ("s-1", 27)
    assert (summary["events_removed"], summary["dry_run"]) == (27, True)
    assert "bytes_after" not in summary
    assert len(filled("read").lines) == 40


def test_a_subscription_that_is_behind_is_a_conflict(filled: Evlog) -> None:
    assert filled("tail", "-n", "all", "--name", "mail", "--count", "3").code == 0
    refused = filled("compact")
    assert refused.code == 3
    assert "'mail' has come to position 3" in refused.err
    assert "--force" in refused.err
    assert filled("compact", "--force").line["events_removed"] == 27


def test_compacting_no_store_is_not_found(evlog: Evlog) -> None:
    assert evlog("compact").code == 5


def test_a_running_compaction_is_busy(filled: Evlog, here: Path) -> None:
    from evlog.lock import FileLock
    from evlog.paths import compaction_path

    lock = FileLock(compaction_path(str(here / ".evlog")), 0.0)
    with lock:
        assert filled("compact").code == 6
    lock.close()
    assert library.open(here / ".evlog").info().events == 40
