"""`evlog compact`: what it prints, and how it ends."""

from __future__ import annotations

import sys
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
        "events_erased",
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
    assert "'mail' is at position 3" in refused.err
    assert "--force" in refused.err
    assert filled("compact", "--force").line["events_removed"] == 27


@pytest.fixture
def wide(evlog: Evlog) -> Evlog:
    """Events that compress well, in three full segments and the active one."""
    evlog("init", "--segment-events", "8")
    line = b'"%s"\n' % (b"the same again " * 20)
    evlog("append", "--lines", "--batch", "2", "s-1", "T", stdin=line * 30)
    return evlog


def test_compress_says_how_much_it_saved(wide: Evlog) -> None:
    before, digest = wide("read").out, wide("verify").line["digest"]
    told = wide("compact", "--compress", "--dry-run").line
    assert (told["segments_compressed"], told["dry_run"]) == (3, True)
    assert wide("info").line["compressed_segments"] == 0
    line = wide("compact", "--compress").line
    assert (line["segments_compressed"], line["events_removed"], line["dry_run"]) == (3, 0, False)
    assert line["compressed_bytes"] < line["uncompressed_bytes"] // 3
    assert line["bytes_before"] - line["bytes_after"] == line["uncompressed_bytes"] - line["compressed_bytes"]
    info = wide("info").line
    assert info["saved_bytes"] == line["uncompressed_bytes"] - line["compressed_bytes"]
    assert wide("read").out == before
    assert wide("verify").line["digest"] == digest
    assert wide("verify", "--against", digest).code == 0
    assert wide("compact", "--compress").line["segments_compressed"] == 0


def test_compress_on_a_terminal_is_a_few_lines(wide: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.cli._support.console.stdout_is_terminal", lambda: True)
    told = wide("compact", "--compress", "--dry-run").out.decode()
    assert "3 segments would be compressed" in told
    done = wide("compact", "--compress").out.decode()
    assert "3 segments compressed: " in done
    assert "nothing to compress" in wide("compact", "--compress").out.decode()
    assert "compressed_segments  3\n" in wide("info").out.decode()
    assert "compress" not in wide("compact").out.decode()


def test_compress_has_a_progress_bar_on_a_terminal(wide: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.cli._support.console.stderr_is_terminal", lambda: True)
    assert wide("compact", "--compress").line["segments_compressed"] == 3


@pytest.mark.exact_hashes  # else a look-up reads what is compressed
def test_without_zstandard_the_exit_code_says_unsupported(
    wide: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evlog.files.disk import zstd

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "zstandard", None)
        patch.setattr(zstd, "_local", zstd._Local())
        assert wide("compact", "--compress").code == 10
    assert wide("compact", "--compress").code == 0
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(zstd, "_local", zstd._Local())
    refused = wide("read")
    assert (refused.code, refused.out) == (10, b"")
    assert refused.err.count("\n") == 1
    assert "pip install 'evlog-store[zstd]'" in refused.err
    assert wide("read", "--after", "24").code == 0


def test_compacting_no_store_is_not_found(evlog: Evlog) -> None:
    assert evlog("compact").code == 5


def test_a_running_compaction_is_busy(filled: Evlog, here: Path) -> None:
    from evlog.files.disk.file_lock import FileLock
    from evlog.files.format.paths import compaction_path

    lock = FileLock(compaction_path(str(here / ".evlog")), 0.0)
    with lock:
        assert filled("compact").code == 6
    lock.close()
    assert library.open(here / ".evlog").info().events == 40
