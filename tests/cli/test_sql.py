"""`evlog sql`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from hashlib import md5
from pathlib import Path

import pytest

from tests.cli.conftest import Evlog, start


@pytest.fixture
def shop(evlog: Evlog) -> Evlog:
    lines = [
        {"stream": f"order-{number % 2}", "type": "Paid", "data": {"amount": number, "by": "ann"}}
        for number in range(4)
    ]
    evlog("append", "--lines", stdin=b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    evlog("append", "note", "Text", "a,b", "--content-type", "text")
    return evlog


def test_rows_are_json_lines(shop: Evlog) -> None:
    result = shop("sql", "select stream, sum((data->>'amount')::int) as sum from Paid group by 1 order by 1")
    assert result.lines == [{"stream": "order-0", "sum": 2}, {"stream": "order-1", "sum": 4}]


def test_values_are_json(shop: Evlog) -> None:
    line = shop("sql", "select id, time, data, tags, metadata from events where position = 1").line
    (event,) = shop("read", "-n", "1").lines
    assert line == {name: event.get(name, []) for name in ("id", "time", "data", "tags", "metadata")}
    sql = (
        "select 1.50::decimal(9,2) a, 'nan'::double b, 12345678901234567890::hugeint c, 'x\"%s' d, null e, "
        "[1,2] f, {'k': date '2020-01-02'} g, interval 26 hour h, "
        "'\\x00'::blob i, true a, '{\"n\": 1.0}'::json k"
    )
    assert shop("sql", sql).out == (
        b'{"a":1.50,"b":"nan","c":12345678901234567890,"d":"x\\"%s","e":null,"f":[1,2],"g":{"k":"2020-01-02"},'
        b'"h":{"months":0,"days":0,"seconds":93600.0},"i":"AA==","a_1":true,"k":{"n": 1.0}}\n'
    )


def test_json_of_several_lines_is_printed_as_one(shop: Evlog) -> None:
    assert shop("sql", "select '[1,\n2]'::json as a").out == b'{"a":[1, 2]}\n'


def test_large_numbers_have_no_sign(shop: Evlog) -> None:
    assert shop("sql", "select md5_number('b') as a").line["a"] == int.from_bytes(
        md5(b"b").digest(), "little"
    )


@pytest.mark.parametrize("value", ["'infinity'::date", "['12000-01-01'::timestamp]", "make_timestamp_ns(1)"])
def test_a_value_that_cannot_be_printed_is_a_usage_error(shop: Evlog, value: str) -> None:
    result = shop("sql", f"select {value} as a")
    assert result.code == 2
    assert "cannot be printed; cast the column to varchar" in result.err
    assert shop("sql", f"select ({value})::varchar as a").line["a"]


def test_csv_has_texts(shop: Evlog) -> None:
    result = shop(
        "sql", "select position, data->>'$' as text, null as n from events where type = 'Text'", "-o", "csv"
    )
    assert result.out == b'position,text,n\n5,"a,b",\n'
    empty = shop("sql", "select position from events where false", "-o", "csv")
    assert (empty.code, empty.out) == (0, b"position\n")


def test_a_table_has_numbers_on_the_right(shop: Evlog) -> None:
    result = shop(
        "sql", "select stream, count(*) * 1000 as number from events group by 1 order by 1", "-o", "table"
    )
    assert result.out.decode().splitlines() == [
        "stream   number",
        "note       1000",
        "order-0    2000",
        "order-1    2000",
    ]
    assert "no rows" in shop("sql", "select 1 where false", "-o", "table").err


def test_a_query_comes_from_a_file_or_stdin(shop: Evlog, here: Path) -> None:
    (here / "query.sql").write_text("select 1 as one; -- or\nselect 2 as two;\n")
    assert shop("sql", "@query.sql").line == {"two": 2}
    assert shop("sql", "-", stdin=b"select 3 as three").line == {"three": 3}
    assert shop("sql", "@nothing.sql").code == 2
    assert shop("sql", "-", stdin=b"\xff").code == 2


def test_a_query_without_an_end_is_too_long_and_no_event(shop: Evlog) -> None:
    result = shop("sql", "@/dev/zero")
    assert result.code == 2
    assert result.err.startswith("evlog: the query is too long; give at most")


def test_a_refused_query_is_one_line(shop: Evlog) -> None:
    result = shop("sql", "select nosuch\nfrom events")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert '"nosuch" not found' in result.err
    assert "evlog help sql" in result.err


def test_a_store_that_is_not_there_ends_first(evlog: Evlog) -> None:
    assert evlog("sql", "selec").code == 5


@pytest.mark.skipif(
    not os.path.exists("/proc/self/stat"), reason="the test looks at a process's time in /proc"
)
def test_ctrl_c_ends_a_query_at_once(shop: Evlog, here: Path) -> None:
    endless = "select max(hash(a.range + b.range)) from range(10000000) a, range(10000000) b"
    process = start("sql", endless, cwd=here)
    try:
        while process.poll() is None and cpu_seconds(process.pid) < BUSY_SECONDS:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (-signal.SIGINT, b"", b"")


BUSY_SECONDS = 1.5  # of the processor: more than it takes to start


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_the_library_the_extra_is_named(shop: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "duckdb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "evlog.adapters.sql", raising=False)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    result = shop("sql", "select 1")
    assert result.code == 10
    assert "SQL needs duckdb, which is not installed; run pip install 'evlog-store[sql]'" in result.err
