"""What an `evlog append` inside `--exec` is linked to."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Evlog
from tests.support.programs import ROOT

EVLOG = f"PYTHONPATH={shlex.quote(str(ROOT))}:$PYTHONPATH {shlex.quote(sys.executable)} -m evlog"


@pytest.fixture(autouse=True)
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVLOG_CORRELATION_ID", "EVLOG_CAUSATION_ID"):
        monkeypatch.delenv(name, raising=False)


def test_a_chain_of_commands_belongs_together(evlog: Evlog) -> None:
    placed = evlog("append", "order-1", "Placed", "{}").line
    assert evlog("tail", "--type", "Placed", "--exec", f"{EVLOG} append order-1 Paid '{{}}'").code == 0
    assert evlog("tail", "--type", "Paid", "--exec", f"{EVLOG} append order-1 Shipped '{{}}'").code == 0
    first, paid, shipped = evlog("read").lines
    assert first["metadata"] == {}
    assert paid["metadata"] == {"$correlationId": placed["id"], "$causationId": placed["id"]}
    assert shipped["metadata"] == {"$correlationId": placed["id"], "$causationId": paid["id"]}


def test_a_command_finds_the_links_in_its_environment(evlog: Evlog) -> None:
    evlog("append", "s", "T", "--correlation-id", "größe\nx")
    evlog("append", "s", "T", "--metadata", '{"$correlationId":"a\\u0000b"}')  # a variable holds no NUL
    evlog("append", "s", "T", "--metadata", '{"$correlationId":["x"]}')
    command = 'printf "%s|%s\\n" "$EVLOG_CORRELATION_ID" "$EVLOG_CAUSATION_ID" >> out'
    assert evlog("tail", "--exec", command).code == 0
    ids = [event["id"] for event in evlog("read").lines]
    assert Path("out").read_text() == f"größe\nx|{ids[0]}\nab|{ids[1]}\n{ids[2]}|{ids[2]}\n"


def test_what_is_given_is_used_instead_of_the_environment(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLOG_CORRELATION_ID", "c")
    monkeypatch.setenv("EVLOG_CAUSATION_ID", "")  # as if it were not set
    evlog("append", "s", "T")
    evlog("append", "s", "T", "--correlation-id", "x")
    evlog("append", "s", "T", "--meta", "$correlationId=y")
    evlog("append", "s", "T", "--metadata", '{"n":1.10}')
    own = [{"stream": "s", "type": "T"}, {"stream": "s", "type": "T", "metadata": {}}]
    assert evlog("append", "--lines", stdin="\n".join(map(json.dumps, own)).encode()).code == 0
    evlog("append", "--lines", "s", "T", "--meta", "a=b", stdin=b"{}")
    assert [event["metadata"] for event in evlog("read").lines] == [
        {"$correlationId": "c"},
        {"$correlationId": "x"},
        {"$correlationId": "y"},
        {"n": 1.1, "$correlationId": "c"},
        {"$correlationId": "c"},
        {},  # a copy of an event stays a copy
        {"a": "b", "$correlationId": "c"},
    ]


def test_a_variable_that_is_not_text_is_refused(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLOG_CORRELATION_ID", "\udcff")
    result = evlog("append", "s", "T")
    assert (result.code, result.err) == (
        2,
        "evlog: EVLOG_CORRELATION_ID is not UTF-8; unset it, or set a text\n",
    )
    assert not Path(".evlog").exists()
