"""What every call of a store does while its server does not answer: one table of calls for all engines.

A server that is suspended: each call raises an error with exit code 12, and none waits without end. A server
that was killed and starts again, and a connection that is cut: each call succeeds, once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import evlog
from evlog import EventStore, NewEvent
from evlog.testing.base import LONG_SECONDS
from tests.support.programs import let_go, next_line, start_python
from tests.support.tcp_proxy import ANSWER, REQUEST, TcpProxy

UNREACHABLE, DONE, UNSUPPORTED = 12, 0, 10

Call = Callable[[EventStore, str], object]


def _follow(store: EventStore, name: str | None = None) -> None:
    with store.subscribe(name, after=0) as run:
        assert run.next_event(LONG_SECONDS) is not None


CALLS: dict[str, Call] = {
    "open": lambda _, url: evlog.open(url).close(),
    "create": lambda _, url: evlog.open(url, create=True).close(),
    "append": lambda store, _: store.append("b-append", [NewEvent("T", 1)]),
    "append, expected": lambda store, _: store.append("b-expected", [NewEvent("T", 1)], evlog.NO_STREAM),
    "append, key": lambda store, _: store.append("b-key", [NewEvent("T", 1, idempotency_key="k")]),
    "read": lambda store, _: list(store.read("a-1")),
    "read_all": lambda store, _: list(store.read_all()),
    "read_all, category": lambda store, _: list(store.read_all(category="a")),
    "query": lambda store, _: store.query("type=T"),
    "get": lambda store, _: store.get(1),
    "head": lambda store, _: store.head,
    "stream_version": lambda store, _: store.stream_version("a-1"),
    "streams": lambda store, _: list(store.streams()),
    "info": lambda store, _: store.info(),
    "standing": lambda store, _: store.standing,
    "policies": lambda store, _: store.policies(),
    "schemas": lambda store, _: store.schemas(),
    "state": lambda store, _: store.state("a-1", snapshot="s"),
    "snapshots": lambda store, _: store.snapshots(),
    "verify": lambda store, _: store.verify(),
    "subscribe": lambda store, _: _follow(store),
    "subscribe, name": lambda store, _: _follow(store, "new"),
    "subscriptions": lambda store, _: store.subscriptions(),
    "reset_subscription": lambda store, _: store.reset_subscription("known", 1),
    "set_retention": lambda store, _: store.set_retention("a-2", max_count=1),
    "delete_stream": lambda store, _: store.delete_stream("a-3"),
    "redact": lambda store, _: store.redact(1, reason="r"),
    "compact": lambda store, _: store.compact(force=True),
}
_CHANGES_POLICIES = ("set_retention", "delete_stream", "redact", "compact")
# They need not ask the server.
_BY_MEMORY = {"kafka": ("snapshots",)}


# Ctrl-C in a call that would else wait for more than the test does.
_INTERRUPTED = """
import signal, sys
import evlog
url, call = sys.argv[1:]

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
try:
    with evlog.open(url) as store:
        if call == "follow":
            run = store.subscribe("interrupted", after=0)
            run.next_event()
        assert store.head
        print("ready", flush=True)
        sys.stdin.readline()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        if call == "append":
            store.append("i", [evlog.NewEvent("T"), evlog.NewEvent("T")])
        elif call == "read":
            list(store.read_all(category="a"))
        else:
            with run:
                while True:
                    run.next_event()
except KeyboardInterrupt:
    sys.exit(130)
"""


def prepare(url: str) -> None:
    """Make the store that the calls are about."""
    with evlog.open(url, create=True) as store:
        for stream in ("a-1", "a-2", "a-3"):
            store.append(stream, [NewEvent("T", {"n": number}) for number in range(3)])
        with store.subscribe("known", after=0) as run:
            run.next_event(LONG_SECONDS)
            run.next_event(LONG_SECONDS)


def expected(url: str, code: int) -> dict[str, int]:
    """Return the exit code of each call; an engine that offers less refuses some at once."""
    with evlog.open(url) as store:
        capabilities = store.capabilities
    quick = _BY_MEMORY.get(capabilities.engine, ())
    refused = () if capabilities.retention else _CHANGES_POLICIES
    codes = {call: DONE if call in quick else UNSUPPORTED if call in refused else code for call in CALLS}
    if code == UNREACHABLE:
        codes["redact"] = code  # it reads the event first
    return codes


def outcomes(url: str, outage: AbstractContextManager[None], code: int) -> dict[str, int | str]:
    """Make all calls at once, each by a store of its own that was open before; return their exit codes.

    Args:
        outage: a block in which the calls begin; with UNREACHABLE they also end in it.
    """
    found: dict[str, int | str] = {}

    def make(name: str, store: EventStore) -> None:
        try:
            CALLS[name](store, url)
        except evlog.EvlogError as error:
            found[name] = error.exit_code if error.exit_code in (UNREACHABLE, UNSUPPORTED) else repr(error)
        except Exception as error:  # noqa: BLE001 - the outcome shows it
            found[name] = repr(error)
        else:
            found[name] = DONE

    stores = {name: evlog.open(url) for name in CALLS}
    for store in stores.values():
        assert store.head >= 9
    threads = {
        name: threading.Thread(target=make, args=each, daemon=True)
        for name, each in ((name, (name, store)) for name, store in stores.items())
    }

    def join() -> None:
        for name, thread in threads.items():
            thread.join(LONG_SECONDS)
            if thread.is_alive():
                found[name] = "waits without end"

    with outage:
        for thread in threads.values():
            thread.start()
        if code == UNREACHABLE:
            join()
    join()
    for store in stores.values():
        store.close()
    return found


def check_interrupts(url: str, suspended: AbstractContextManager[None], before: str = "") -> None:
    """Interrupt calls while the server is suspended, and check that they end, and what they leave.

    Args:
        url: with a time-out above that of the test.
        before: what the program begins with.
    """
    calls = {
        call: start_python("-c", before + _INTERRUPTED, url, call) for call in ("append", "read", "follow")
    }
    for process in calls.values():
        assert next_line(process) == "ready\n"
    with suspended:
        for process in calls.values():
            let_go(process)
        codes = {call: process.wait(LONG_SECONDS) for call, process in calls.items()}
    assert codes == dict.fromkeys(calls, 130)
    for process in calls.values():
        process.communicate()
    with evlog.open(url) as store:
        assert len(list(store.read("i"))) in (0, 2)
        with store.subscribe("interrupted") as run:
            assert run.position <= 1  # what was not saved comes again
        assert store.verify().ok


def check_stop(url: str, suspended: AbstractContextManager[None], method: str = "_look") -> None:
    """Stop a follower while it waits for a suspended server, and check that it does not wait for its answer.

    Args:
        url: of a store whose calls wait for longer than the test does.
        method: of the feed, which asks the server.
    """
    errors: list[evlog.EvlogError] = []
    asks = threading.Event()
    with evlog.open(url, create=True) as store, store.subscribe(after=0) as run:
        ask = getattr(run._feed, method)

        def noted(*arguments: Any) -> Any:
            asks.set()
            answer = ask(*arguments)
            asks.clear()
            return answer

        def follow() -> None:
            try:
                run.next_event()
            except evlog.EvlogError as error:
                errors.append(error)

        setattr(run._feed, method, noted)
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        with suspended:
            assert asks.wait(LONG_SECONDS)
            run.stop()
            follower.join(LONG_SECONDS)
            assert not follower.is_alive()
    assert {type(error) for error in errors} <= {evlog.StoreUnreachable}


def check_cuts(url: str, proxy: TcpProxy) -> None:
    """Make each call while its connection is cut, before the server gets it and before its answer."""
    codes = expected(url, DONE)
    with evlog.open(url) as store:
        for what in (REQUEST, ANSWER):
            for number, (name, call) in enumerate(CALLS.items()):
                if codes[name] != DONE or (what == ANSWER and name == "append, expected"):
                    continue
                proxy.cut(what, number % 2)
                if name == "delete_stream" and what == ANSWER:
                    store.append("a-3", [NewEvent("T", 0)])
                    proxy.cut(what, number % 2)
                call(store, url)
        proxy.cut("nothing")
        check_once(store, 2)


def check_once(store: EventStore, times: int = 1) -> None:
    """Check that everything is there once, of an append without a key as often as it was made."""
    assert [event.version for event in store.read("b-append")] == list(range(1, times + 1))
    assert [event.version for event in store.read("b-key")] == [1]
    assert [event.version for event in store.read("b-expected")] == [1]
    assert store.verify().ok
