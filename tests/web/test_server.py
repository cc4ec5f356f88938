"""Which requests are answered, by the command as a user runs it; and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import pytest

import evlog
from evlog import EventStore
from evlog.web.app import STATIC
from evlog.web.guard import HEADERS
from tests.cli.conftest import run_process, start
from tests.support.programs import run_python
from tests.support.server import free_port
from tests.web.conftest import LONG_SECONDS, Served

PATHS = ("", "events", "event?position=1", "data?position=1", "store", "static/app.js", "nothing")


def test_without_the_token_nothing_is_shown(served: Served) -> None:
    token = served.path.strip("/")
    assert len(token) >= 32
    wrong = ("A" if token[0] != "A" else "B") + token[1:]
    for prefix in ("/", "//", f"/{wrong}/", f"/{token[:-1]}/", f"/x/{token}/", f"/{token.lower()}x/"):
        for path in PATHS:
            answer, content = served.request(prefix + path)
            assert answer.status == 403
            assert token.encode() not in content


def test_each_start_has_a_token_of_its_own(store: EventStore, served: Served) -> None:
    process = start("--store", store.path, "web", "--no-browser")
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    process.terminate()
    process.communicate(timeout=LONG_SECONDS)
    assert url.split("/")[3] != served.url.split("/")[3]


def test_the_token_alone_leads_to_the_page(served: Served) -> None:
    answer, _ = served.request(served.path.rstrip("/"))
    assert answer.status == 303
    assert answer.headers["location"] == served.path


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", "0.0.0.0"]
)
def test_another_host_is_refused(served: Served, host: str) -> None:
    answer, content = served.request("events", headers={"Host": host.format(port=served.port)})
    assert answer.status == 403
    assert b"127.0.0.1" in content
    assert b"Placed" not in content


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "localhost:9", "localhost"])
def test_this_machine_is_answered_also_through_a_tunnel(served: Served, host: str) -> None:
    answer, _ = served.request("events", headers={"Host": host.format(port=served.port)})
    assert answer.status == 200


def test_two_hosts_are_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=LONG_SECONDS) as connection:
        request = f"GET {served.path}store HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        connection.sendall(request.encode())
        assert re.match(rb"HTTP/1.1 40[03] ", connection.recv(4096))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
def test_only_get_is_answered(served: Served, method: str) -> None:
    for path in PATHS:
        answer, content = served.request(path, method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET"
        assert b"Placed" not in content


def test_every_answer_has_the_headers(served: Served) -> None:
    answers = [served.request(path)[0] for path in (*PATHS, "/", "event?position=99999", "events?since=x")]
    answers += [served.request("events", "POST")[0], served.request("events", headers={"Host": "x"})[0]]
    assert {answer.status for answer in answers} == {200, 400, 403, 404, 405}
    for answer in answers:
        assert HEADERS.items() <= {name.lower(): value for name, value in answer.headers.items()}.items()
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_the_policy_lets_in_nothing_but_files_of_the_page(served: Served) -> None:
    answer, _ = served.request("")
    policy = dict(
        rule.strip().split(" ", 1) for rule in str(answer.headers["content-security-policy"]).split(";")
    )
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert {policy[name] for name in policy if name.endswith("-src")} == {"'none'", "'self'"}


def test_it_listens_on_the_loopback_address_only(served: Served) -> None:
    with pytest.raises(ConnectionRefusedError):  # also loopback, but another address
        socket.create_connection(("127.0.0.2", served.port), timeout=LONG_SECONDS)


def test_a_browser_is_started_with_a_code_that_works_once(store: EventStore, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}.new && mv {seen}.new {seen}\n')
    browser.chmod(0o755)
    process = start("--store", store.path, "web", env={"BROWSER": f"{browser} %s", "DISPLAY": ""})
    assert process.stdout is not None
    try:
        served = Served(json.loads(process.stdout.readline())["url"], store)
        while not seen.exists():
            assert process.poll() is None
        path = seen.read_text().strip().removeprefix(f"http://127.0.0.1:{served.port}")
        assert served.path.strip("/") not in path
        answer, _ = served.request(path)
        assert (answer.status, answer.headers["location"]) == (303, served.path)
        assert served.request(path)[0].status == 403
    finally:
        process.terminate()
        process.communicate(timeout=LONG_SECONDS)


def test_the_page_needs_nothing_from_elsewhere_and_has_no_script_in_it() -> None:
    texts = {path.name: path.read_text("utf-8") for path in Path(STATIC).iterdir()}
    for name, text in texts.items():
        assert "//" not in re.sub(r"//[ /].*|xmlns=\S+|^//.*", "", text, flags=re.MULTILINE), name
        assert "innerHTML" not in text, name
        assert len(text.splitlines()) <= 400, name
    page = texts["index.html"]
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page)
    used = set(re.findall(r'"static/([\w.]+)"', page)) | {"index.html"}
    assert used == set(texts)


def test_files_outside_are_not_served(served: Served) -> None:
    for path in ("static/../app.py", "static/%2e%2e/app.py", "../../etc/passwd", "static/", "static"):
        assert served.request(path)[0].status == 404


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("events?since=lately", 400, "invalid time 'lately'; use ISO 8601"),
        ("events?before=-1", 400, "invalid before '-1'; use a whole number"),
        ("events?limit=1000000", 400, "invalid limit '1000000'"),
        ("events?stream=a&category=b", 400, "stream and category both say which streams"),
        ("event?position=100000", 404, "no event at position 100000"),
        ("event", 400, "no position is given"),
        ("event?id=x", 400, "invalid event 'x'; give its id"),
        ("parked?name=nope", 404, "no subscription 'nope'"),
    ],
)
def test_a_bad_request_says_what_is_wrong(served: Served, path: str, status: int, problem: str) -> None:
    answer, content = served.request(path)
    assert answer.status == status
    assert problem in json.loads(content)["problem"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_pages_are_open(store: EventStore, signum: int) -> None:
    process = start("--store", store.path, "web", "--no-browser")
    assert process.stdout is not None
    served = Served(json.loads(process.stdout.readline())["url"], store)
    with socket.create_connection(("127.0.0.1", served.port), timeout=LONG_SECONDS) as page:
        page.sendall(f"GET {served.path}live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while b"event: head" not in received:
            received += page.recv(4096)
        process.send_signal(signum)
        _, err = process.communicate(timeout=LONG_SECONDS)
    assert process.returncode == -signum
    assert err == b"evlog: the page only reads; Ctrl-C ends it\n"


def test_a_port_that_is_taken_is_one_line(served: Served) -> None:
    result = run_process("--store", served.store.path, "web", "--no-browser", "--port", str(served.port))
    assert result.code == 1
    assert result.err == (
        f"evlog: cannot listen on port {served.port}: Address already in use; "
        "use another port, or 0 for a free one\n"
    )


def test_a_given_port_is_used(store: EventStore) -> None:
    port = free_port()
    process = start("--store", store.path, "web", "--no-browser", "--port", str(port))
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    process.terminate()
    process.communicate(timeout=LONG_SECONDS)
    assert url.startswith(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_it_is_exit_10(missing: str, tmp_path: Path) -> None:
    with evlog.open(tmp_path / "store", create=True) as store:
        script = (
            f"import sys; sys.modules[{missing!r}] = None;"
            "from evlog.cli.app import run; sys.exit(run(sys.argv[1:]))"
        )
        done = run_python("-c", script, "--store", store.path, "web", code=10)
    assert done.stderr == (
        f"evlog: evlog web needs {missing}, which is not installed; run pip install 'evlog-store[web]'\n"
    )


def test_no_store_is_exit_5(tmp_path: Path) -> None:
    assert run_process("--store", str(tmp_path / "nowhere"), "web", "--no-browser").code == 5
