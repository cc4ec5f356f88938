"""`evlog export`: filters, and what it prints."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evlog.transfer.export import SUFFIXES
from evlog.transfer.parquet import COLUMNS
from tests.cli.conftest import NO_BYTECODE, Evlog, run_process
from tests.support.programs import run_python


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    for number in range(6):
        evlog("append", f"order-{number % 2}", f"T{number % 3}", str(number), "--tag", f"n:{number}")
    return evlog


@pytest.mark.parametrize(
    "filters",
    [
        [],
        ["--type", "T1"],
        ["--tag", "n:4"],
        ["--category", "order", "--after", "3"],
        ["--from", "2", "--to", "4"],
        ["--limit", "2"],
        ["--since", "2001-01-01"],
    ],
)
def test_filters_are_those_of_read(filled: Evlog, filters: list[str]) -> None:
    done = json.loads(filled("export", "out.jsonl", *filters).out)
    assert Path("out.jsonl").read_bytes() == filled("read", *filters).out
    assert done["events"] == len(filled("read", *filters).out.splitlines())


def test_one_stream(filled: Evlog) -> None:
    filled("export", "out.jsonl", "--stream", "order-1", "--from", "2")
    assert Path("out.jsonl").read_bytes() == filled("read", "order-1", "--from", "2").out
    assert filled("export", "out.jsonl", "--stream", "order").code == 5


def test_csv_has_the_cells_that_read_prints(evlog: Evlog) -> None:
    evlog("append", "s", "T", '{"a":"x,\\"y"}', "--tag", "a:b", "--tag", "c,d", "--meta", "k=v")
    evlog("append", "s", "T", "5")
    evlog("export", "out.csv")
    assert Path("out.csv").read_bytes().replace(b"\r\n", b"\n") == evlog("read", "-o", "csv").out


def test_append_continues(filled: Evlog) -> None:
    filled("export", "out.csv", "--category", "order")
    filled("append", "order-9", "T")
    filled("append", "other", "T")
    done = json.loads(filled("export", "out.csv", "--append", "--category", "order").out)
    assert (done["events"], done["position"]) == (1, 7)


def test_a_file_with_the_content_of_a_redacted_event_is_not_continued(filled: Evlog) -> None:
    filled("export", "out.jsonl", "--to", "4")
    filled("redact", "2", "--reason", "a test")
    result = filled("export", "out.jsonl", "--append")
    assert result.code == 2
    assert result.err.endswith(
        "cannot append to out.jsonl: it has the content of event 2, which is redacted; "
        "export again without --append, which replaces the file\n"
    )
    filled("export", "out.jsonl", "--to", "4")
    assert json.loads(filled("export", "out.jsonl", "--append").out)["events"] == 2


def test_all_columns_of_a_parquet_file_can_be_chosen(filled: Evlog) -> None:
    columns = [*COLUMNS, "category", "data.x"]
    assert filled("export", "out.parquet", "--fields", ",".join(columns)).code == 0
    assert pq.read_schema("out.parquet").names == columns
    for wrong in ("nosuch", "position.x", "data.", "", "raw,raw"):
        result = filled("export", "out.parquet", "--fields", wrong)
        assert result.code == 2
        assert result.err.count("redacted") <= 1
    assert "fields are for a file .parquet" in filled("export", "out.csv", "--fields", "nosuch").err


@pytest.mark.parametrize("more", [[], ["--stream", "order-1"]])
def test_a_limit_counts_what_is_added(filled: Evlog, more: list[str]) -> None:
    ends = [json.loads(filled("export", "out.csv", "--append", "-n", "2", *more).out) for _ in range(3)]
    assert [end["position"] for end in ends] == ([4, 6, 6] if more else [2, 4, 6])


def test_a_wrong_suffix_is_a_usage_error_before_the_store_is_looked_for(evlog: Evlog) -> None:
    result = evlog("export", "events.txt")
    assert result.code == 2
    assert ".parquet" in result.err


def test_exported_cloudevents_can_be_appended(filled: Evlog) -> None:
    filled("export", "out.cloudevents.jsonl")
    lines = Path("out.cloudevents.jsonl").read_bytes()
    done = filled("append", "-s", "copy", "--lines", "--format", "cloudevents", stdin=lines)
    assert json.loads(done.out)["appended"] == 6
    fields = ["-o", "json", "--fields", "stream,version,id,type,data,tags"]
    assert filled("read", "-s", "copy", *fields).out == filled("read", *fields).out
    result = filled("append", "--lines", "s", "T", "--format", "cloudevents", stdin=lines)
    assert result.code == 2
    result = filled("append", "--lines", "--format", "cloudevents", stdin=b'{"id":"1"}\n')
    assert (result.code, "line 1 is not a CloudEvent" in result.err) == (2, True)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".sqlite", ".parquet"])
def test_a_file_that_cannot_be_made_is_reported_with_the_reason(filled: Evlog, suffix: str) -> None:
    result = filled("export", f"missing/x{suffix}")
    assert result.code == 1
    assert f"cannot use missing/x{suffix} (No such file or directory)" in result.err


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_limit_on_the_size_of_files_is_a_full_disk(evlog: Evlog, here: Path, suffix: str) -> None:
    lines = "".join(f"{os.urandom(100).hex()}\n" for _ in range(9000))
    assert evlog("append", "-s", "x", "--lines", "--text", "s", "T", stdin=lines.encode()).code == 0
    done = run_process(
        "export",
        f"out{suffix}",
        "-s",
        "x",
        env={**NO_BYTECODE, "PYTHONWARNINGS": "always::ResourceWarning"},  # about a file that is left open
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.code == 9
    assert done.err.startswith(f"evlog: no space to write out{suffix} (File too large); ")
    assert done.err.count("\n") == 1
    assert not list(here.glob("out*"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_export_that_a_signal_ends_leaves_no_file(here: Path, signum: int) -> None:
    program = """
import os, sys
from evlog.cli import app
from evlog.transfer import formats
write = formats.Lines.write
def hold(self, events):
    write(self, events)
    os.kill(os.getpid(), signum)
formats.Lines.write = hold
signum = int(sys.argv.pop())
app.main()
"""
    run_process("append", "a", "T", "-s", "x")
    run_python("-c", program, "export", "out.jsonl", "-s", "x", str(int(signum)), code=-signum)
    assert not list(here.glob("out*"))
