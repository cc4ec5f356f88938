"""The server of the Model Context Protocol, used by the SDK's own client as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

import evlog
from evlog import NewEvent
from evlog.adapters import mcp as server
from tests.support.helpers import small_store
from tests.support.programs import next_line, run_python, start_python

READING = {
    "list_streams", "list_types", "read_events", "show_event", "fold_state", "list_subscriptions",
    "store_info", "verify_store",
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> str:
    with small_store(tmp_path / "store") as store:
        for number in range(5):
            event = NewEvent(f"T{number % 2}", {"n": number, "last": number}, tags=[f"n:{number}"])
            store.append(f"order-{number % 2}", [event])
        store.append("other", [NewEvent("Other", {"x": 1})])
        store.subscribe("billing", follow=False).close()
    return str(tmp_path / "store")


def asked(path: str, *options: str, ask: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    """Return what a client gets from a server that it started."""
    arguments = ["-m", "evlog", "mcp", "--store", path, *options]
    root = str(Path(evlog.__file__).parent.parent)
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env={"PYTHONPATH": root})

    async def run() -> Any:
        async with Client(parameters, read_timeout_seconds=60) as client:
            return await ask(client)

    return asyncio.run(run())


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    text = "".join(getattr(part, "text", "") for part in result.content)
    if result.is_error:
        return text
    return json.loads(text)


def test_a_client_reads_the_store_through_its_tools(path: str) -> None:
    async def ask(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == READING
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools.values())
        assert all(tool.description for tool in tools.values())
        streams = (await call(client, "list_streams", category="order"))["streams"]
        assert [(row["stream"], row["events"]) for row in streams] == [("order-0", 3), ("order-1", 2)]
        assert await call(client, "list_streams", limit=1) == {"streams": streams[:1], "next": "order-0"}
        assert [s["stream"] for s in (await call(client, "list_streams", after="order-0"))["streams"]] == [
            "order-1",
            "other",
        ]
        assert await call(client, "list_types") == {"types": {"T0": 3, "T1": 2, "Other": 1}}
        found = await call(client, "read_events", types=["T0"], limit=2)
        assert [event["data"]["n"] for event in found["events"]] == [0, 2]
        found = await call(client, "read_events", types=["T0"], after=found["next"])
        assert [event["data"]["n"] for event in found["events"]] == [4]
        assert "next" not in found
        found = await call(client, "read_events", stream="order-1", newest_first=True, limit=1)
        assert [event["version"] for event in found["events"]] == [2]
        found = await call(client, "read_events", stream="order-1", newest_first=True, before=found["next"])
        assert [event["version"] for event in found["events"]] == [1]
        assert "next" not in found
        assert len((await call(client, "read_events", since="1h", types=[], tags=[]))["events"]) == 6
        assert (await call(client, "read_events", until="1h"))["events"] == []
        assert len((await call(client, "read_events", tags=["n:3"]))["events"]) == 1
        assert len((await call(client, "read_events", contains='"n":3'))["events"]) == 1
        assert (await call(client, "read_events", contains="(x+x+)+y|n"))["events"] == []
        event = await call(client, "show_event", event="2")
        assert event["stream"] == "order-1"
        last = (await call(client, "show_event", event="6"))["time"]
        assert (await call(client, "store_info"))["last_time"] == last
        assert last in [row["last_time"] for row in (await call(client, "list_streams"))["streams"]]
        assert await call(client, "show_event", event=event["id"]) == event
        assert await call(client, "show_event", event=2) == event
        assert (await call(client, "fold_state", stream="order-0", at=2))["state"] == {"n": 2, "last": 2}
        (subscription,) = (await call(client, "list_subscriptions"))["subscriptions"]
        assert (subscription["name"], subscription["lag_events"]) == ("billing", 6)
        assert await call(client, "list_subscriptions", after="billing") == {"subscriptions": []}
        assert (await call(client, "store_info"))["events"] == 6
        assert await call(client, "verify_store") == {"ok": True, "count": 0, "findings": []}

    asked(path, ask=ask)


def test_what_evlog_refuses_is_an_error_of_the_tool(path: str) -> None:
    async def ask(client: Client) -> None:
        assert "no event at position 99" in await call(client, "show_event", event="99")
        assert "invalid event '9999" in await call(client, "show_event", event="9" * 5000)
        assert "invalid time 'lately'; use ISO 8601" in await call(client, "read_events", since="lately")
        assert "exclude each other" in await call(client, "read_events", stream="a-1", category="a")
        assert "type\n  Extra inputs are not permitted" in await call(client, "read_events", type="T0")
        assert "append_event" in await call_or_error(client, "append_event", stream="s", type="T", data=1)

    asked(path, ask=ask)
    with evlog.open(path) as store:
        assert store.head == 6


async def call_or_error(client: Client, tool: str, **arguments: Any) -> str:
    try:
        return str(await call(client, tool, **arguments))
    except Exception as error:  # noqa: BLE001 - the protocol's error, whatever class the SDK gives it
        return str(error)


def test_appending_has_to_be_allowed_and_expects_a_version(path: str) -> None:
    async def ask(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == READING | {"append_event"}
        event = {"stream": "order-1", "type": "Paid", "data": {"n": 9}, "idempotency_key": "k"}
        assert "is at version 2, expected 7" in await call(
            client, "append_event", expected_version=7, **event
        )
        done = await call(client, "append_event", expected_version=2, tags=["a:b"], **event)
        assert done == {"position": 7, "version": 3, "duplicate": False}
        assert (await call(client, "append_event", expected_version=2, tags=["a:b"], **event))["duplicate"]

    asked(path, "--allow-append", ask=ask)


def test_an_answer_is_bounded(memory_path: Path) -> None:
    with small_store(memory_path / "store") as store:
        for number in range(5):
            store.append("s", [NewEvent("T", {"n": number, "x": "y" * (server.MAX_BYTES // 3)})])
        store.append("s", [NewEvent("T", "z" * (server.MAX_BYTES + 1))])
        tools = server._Tools(store)
        seen: list[int] = []
        after = 0
        while len(seen) < 5:
            text = tools.read_events(after=after)
            assert len(text) <= server.MAX_BYTES + 100
            found = json.loads(text)
            seen += [event["data"]["n"] for event in found["events"]]
            after = found["next"]
        assert seen == list(range(5))
        with pytest.raises(evlog.EvlogError, match="pass 6 as after to continue"):
            tools.read_events(after=after)
        with pytest.raises(evlog.EvlogError, match="pass 6 as before to continue"):
            tools.read_events(newest_first=True)
        with pytest.raises(evlog.EvlogError, match="`evlog show 6` prints it"):
            tools.show_event("6")


def test_events_are_given_once_and_as_they_are_stored(path: str) -> None:
    raw = b'{"n":12345678901234567890,"e":1e400,"d":1,"d":[0.10]}'
    with evlog.open(path) as store:
        store.append("exact", [NewEvent("T", raw)])

    async def ask(client: Client) -> None:
        for tool, arguments in (("read_events", {"stream": "exact"}), ("show_event", {"event": 7})):
            result = await client.call_tool(tool, arguments)
            assert result.structured_content is None
            (part,) = result.content
            assert f'"data":{raw.decode()},' in getattr(part, "text", "")
        (part,) = (await client.call_tool("fold_state", {"stream": "exact"})).content
        assert '"e":1e400' in getattr(part, "text", "")

    asked(path, ask=ask)


def test_ctrl_c_ends_it_while_a_call_runs(path: str) -> None:
    """Also if it comes just before the main thread waits: a handler of Python's would not run then."""
    script = """
import signal, sys, time
from evlog.adapters import mcp
from evlog.cli.app import run

def list_types(self) -> str:
    print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL, file=sys.stderr, flush=True)
    time.sleep(1000)

mcp._Tools.list_types = list_types
sys.exit(run(sys.argv[1:]))
"""
    process = start_python("-c", script, "mcp", "--store", path, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    for each in calls_of("list_types"):
        process.stdin.write(each)
        process.stdin.flush()
    assert process.stderr.readline() == "True\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    process.communicate()


def test_the_server_ends_with_its_stdin(path: str) -> None:
    done = run_python("-m", "evlog", "mcp", "--store", path, input="")
    assert (done.stdout, done.stderr) == ("", "")


def calls_of(tool: str) -> list[str]:
    """Return the lines of a client that begins and calls the tool."""
    me = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "n", "version": "1"}}
    calls: list[dict[str, Any]] = [
        {"method": "initialize", "id": 1, "params": me},
        {"method": "notifications/initialized"},
        {"method": "tools/call", "id": 2, "params": {"name": tool, "arguments": {}}},
    ]
    return [json.dumps(each | {"jsonrpc": "2.0"}) + "\n" for each in calls]


@pytest.mark.parametrize("is_full", [False, True], ids=["reader left", "full disk"])
def test_an_answer_that_cannot_be_written_ends_the_server_in_one_line_or_none(
    path: str, is_full: bool
) -> None:
    if is_full:
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stdout = os.pipe()
        os.close(reading)
    process = start_python("-m", "evlog", "mcp", "--store", path, stdout=stdout, stderr=subprocess.PIPE)
    os.close(stdout)
    _, err = process.communicate(calls_of("list_types")[0], timeout=60)
    expected = (1, "evlog: No space left on device; check it and try again\n") if is_full else (0, "")
    assert (process.returncode, err) == expected


def test_a_call_that_is_refused_is_not_logged(path: str) -> None:
    """Its answer says so; the client's stderr may be a person's terminal."""
    process = start_python("-m", "evlog", "mcp", "--store", path, stderr=subprocess.PIPE)
    assert process.stdin is not None
    for each in calls_of("unknown"):
        process.stdin.write(each)
        process.stdin.flush()
    answers = [json.loads(next_line(process)) for _ in range(2)]
    _, err = process.communicate(timeout=60)
    assert answers[1]["result"]["isError"]
    assert (process.returncode, err) == (0, "")
