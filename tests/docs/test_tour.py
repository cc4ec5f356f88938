"""The README's tour on real input: a repository's history and the machine's package log.

The pipelines are the README's own, taken out of it. What `evlog read` and `evlog streams` answer is compared
with answers found without evlog, by git itself and by counting lines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import ROOT
from tests.support.readme import GUIDE, commit, git, make_repository, run_session, shell_environment

DPKG_LOG = Path("/var/log/dpkg.log")

Environment = dict[str, str]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return shell_environment(tmp_path / "programs") | {"EVLOG_STORE": str(tmp_path / "store")}


@pytest.fixture(params=["own", "small", "hostile"])
def repository(request: pytest.FixtureRequest, tmp_path: Path, environment: Environment) -> Path:
    """This checkout's history, the README's small one, and one of messages that are hard to quote."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    folder = tmp_path / "repository"
    if request.param == "own":
        if not (ROOT / ".git").exists():
            pytest.skip("the tests do not run in a git checkout")
        # A clone, because a developer may commit while this runs.
        git(tmp_path, environment, "clone", "--quiet", "--no-checkout", str(ROOT), str(folder))
        return folder
    folder.mkdir()
    make_repository(folder, environment)
    if request.param == "hostile":
        add_hostile_commits(folder, environment)
    return folder


def add_hostile_commits(folder: Path, environment: Environment) -> None:
    for hour, message in enumerate(
        [
            "\"\"\" ''' \\n \\u0000 \\\\",
            "tab\there, bell\x07, escape\x1b[31m, delete\x7f, line\u2028separator, next\x85line",
            'subject\n\n{"looks": "like JSON"}\n\n%H%n%x00 $(false) `false`',
            "日本語, emoji 🎉, and é twice: e\u0301",
            " \n\n\nsubject after blank lines\n",
        ],
        14,
    ):
        commit(folder, environment, "Zoë O'Neil-Smith", hour, message)
    tree, parent = git(folder, environment, "rev-parse", "HEAD^{tree}", "HEAD").split()
    person = b"L\xe9a <l@example.org> 1767650000 +0000"
    raw = f"tree {tree}\nparent {parent}\n".encode()
    raw += b"author " + person + b"\ncommitter " + person + b"\n\nnot UTF-8: \xff\n"
    made = subprocess.run(
        ["git", "hash-object", "-t", "commit", "-w", "--stdin"],
        cwd=folder,
        env=environment,
        input=raw,
        stdout=subprocess.PIPE,
        check=True,
    )
    git(folder, environment, "reset", "--quiet", "--soft", made.stdout.decode().strip())


def pipeline(function: str) -> str:
    """Return the guide's block that defines a shell function and pipes it into evlog."""
    (code,) = [
        block.code for page in GUIDE for block in page.blocks if block.code.startswith(f"{function}() {{")
    ]
    return code


def summaries(printed: list[str]) -> list[dict[str, Any]]:
    lines = [line for piece in printed for line in piece.splitlines()]
    return [json.loads(line) for line in lines if not line.startswith("evlog: created the store")]


def ask(environment: Environment, *arguments: str) -> list[dict[str, Any]]:
    """Return the JSON lines that an evlog command answers with."""
    evlog = shutil.which("evlog", path=environment["PATH"])
    assert evlog
    done = subprocess.run([evlog, *arguments], env=environment, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_git_history_is_imported_once_and_answers_questions(
    repository: Path, environment: Environment
) -> None:
    first, again = summaries(run_session([pipeline("commits")] * 2, repository, environment))
    count = int(git(repository, environment, "rev-list", "--count", "HEAD"))
    assert (first["appended"], first["duplicates"], first["skipped"]) == (count, 0, 0)
    assert (again["appended"], again["duplicates"], again["skipped"]) == (0, count, 0)

    events = ask(environment, "read")
    assert [event["position"] for event in events] == list(range(1, count + 1))
    hashes = git(repository, environment, "rev-list", "--reverse", "HEAD").split()
    assert [event["data"]["commit"] for event in events] == hashes

    authors = git(repository, environment, "log", "--format=%an").splitlines()
    streams = {stream["stream"]: stream["events"] for stream in ask(environment, "streams")}
    assert streams == {f"author-{author}": number for author, number in Counter(authors).items()}

    merges = git(repository, environment, "rev-list", "--merges", "--reverse", "HEAD").split()
    answer = ask(environment, "read", "--type", "Merged")
    assert [event["data"]["commit"] for event in answer] == merges

    (newest,) = ask(environment, "read", f"author-{authors[0]}", "--reverse", "--limit", "1")
    assert newest["data"]["commit"] == hashes[-1]
    assert newest["version"] == streams[newest["stream"]]


def test_every_message_survives_byte_for_byte(repository: Path, environment: Environment) -> None:
    run_session([pipeline("commits")], repository, environment)
    for event in ask(environment, "read", "--reverse", "--limit", "12"):
        data = event["data"]
        for name, place in {"subject": "%s", "body": "%b", "author": "%an", "date": "%aI"}.items():
            shown = git(
                repository, environment, "show", "--no-patch", f"--format=tformat:{place}", data["commit"]
            )
            assert f"{data[name]}\n" == shown


@pytest.mark.skipif(not os.access(DPKG_LOG, os.R_OK), reason=f"this machine has no {DPKG_LOG}")
def test_package_log_is_imported_once_and_answers_questions(tmp_path: Path, environment: Environment) -> None:
    # A package may be installed while this runs: the README's pipeline and the counts see one copy.
    log = tmp_path / "dpkg.log"
    shutil.copyfile(DPKG_LOG, log)
    lines = [line.split() for line in log.read_text("utf-8", "replace").splitlines()]
    if not lines:
        pytest.skip(f"{DPKG_LOG} is empty")
    first, again = summaries(
        run_session([pipeline("packages").replace(str(DPKG_LOG), str(log))], tmp_path, environment)
    )
    assert (first["appended"], first["duplicates"], first["skipped"]) == (len(lines), 0, 0)
    assert (again["appended"], again["duplicates"], again["skipped"]) == (0, len(lines), 0)

    for action in {words[2] for words in lines}:
        answer = ask(environment, "read", "--type", action)
        assert [event["position"] for event in answer] == [
            number for number, words in enumerate(lines, 1) if words[2] == action
        ]

    touched = Counter(words[4] if words[2] == "status" else words[3] for words in lines)
    streams = {
        stream["stream"]: stream["events"] for stream in ask(environment, "streams", "--category", "package")
    }
    assert streams == {f"package-{package}": number for package, number in touched.items()}

    package, number = touched.most_common(1)[0]
    history = ask(environment, "read", f"package-{package}")
    assert [event["version"] for event in history] == list(range(1, number + 1))
    assert [event["data"]["detail"].split() for event in history] == [
        words[3:] for words in lines if package in words[3:5]
    ]
