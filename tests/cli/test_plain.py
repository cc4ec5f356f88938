"""Both readers of command lines, the plain one and Typer's, give the same result on every line."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evlog.cli._support import console, group, plain
from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.parameters import COUNT, FLAG, Given, Parameter, argument, make_given
from evlog.errors import InvalidArgument
from tests.cli.conftest import run_process
from tests.support.programs import run_python

TABLES: dict[str, tuple[Parameter, ...]] = {
    name: module.PARAMETERS
    for name, module in ((name, plain.load(name)) for name in COMMANDS)
    if hasattr(module, "PARAMETERS")
}
VALUES = st.sampled_from(
    [
        *("", "-", "--", "a", "a=b", "=", "5", "-5", "-0.5e3", "-5x", "5 ", "1.5", "nan", "9" * 25),
        *("json", "csv", "always", "@file", "ü", "\udcff"),
        *("-x", "--no-such", "--no-such=1", "-h", "--help", "--store"),
    ]
)
Values = dict[str, Any] | None


def words_of(parameters: tuple[Parameter, ...]) -> st.SearchStrategy[list[str]]:
    """Return lists of words that are near to what a command takes."""
    flags = st.sampled_from(["--help", *(name for parameter in parameters for name in parameter.flags)])
    letters = "".join(name[1] for parameter in parameters for name in parameter.flags if len(name) == 2)
    word = st.one_of(
        VALUES.map(lambda value: [value]),
        flags.map(lambda flag: [flag]),
        st.tuples(flags, VALUES).map(list),
        st.tuples(flags, VALUES).map(lambda pair: ["=".join(pair)]),
        st.tuples(flags, VALUES).map(lambda pair: ["".join(pair)]),
        st.text(letters + "hx5=", max_size=3).map(lambda text: ["-" + text]),
    )
    return st.lists(word, max_size=6).map(lambda parts: [word for part in parts for word in part])


lines = st.sampled_from(sorted(TABLES)).flatmap(
    lambda name: st.tuples(
        st.sampled_from(
            [
                [],
                ["-s", "x"],
                ["--store=y"],
                ["-sz"],
                ["-s="],
                ["--store"],
                ["-s", "x", "--store", "y"],
            ]
        ),
        st.just([name]),
        words_of(TABLES[name]),
    ).map(lambda parts: parts[0] + parts[1] + parts[2])
)


def read_plainly(arguments: list[str]) -> Values:
    """Return the values as the plain reader has them; None if it leaves the line to Typer, or refuses it."""
    found = plain.parse(arguments)
    if found is None:
        return None
    module, texts = found
    try:
        return vars(make_given(module.PARAMETERS, texts))
    except InvalidArgument:
        return None


def read_with_typer(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Values:
    """Return the values as Typer gives them to a command; None if it refuses the line, or shows help."""
    seen: list[Given] = []
    with monkeypatch.context() as patch:
        for name in TABLES:
            patch.setattr(plain.load(name), "command", seen.append)
        try:
            group.invoke(arguments)
        except InvalidArgument:
            return None
        finally:
            console.reset()
    return vars(seen[0]) if seen else None


@settings(max_examples=400, deadline=None)
@given(lines)
@example(["append", "temp", "Measured", "-5"])
@example(["append", "temp", "Measured", "-5", "--meta", "a=b"])
@example(["append", "temp", "Measured", "-e", "-5"])
@example(["read", "-5"])
@example(["read", "-n5", "-rn", "6"])
@example(["read", "-rn5", "--type", "a", "--type=b"])
@example(["read", "-n", "5", "-n", "5"])
@example(["read", "--", "-5"])
@example(["read", "--reverse=1"])
@example(["read", "-o", "data", "a", "b"])
@example(["delete"])
@example(["delete", ""])
@example(["-s", "x", "streams", "-s", "y"])
@example(["-sx", "info", "--store="])
def test_both_readers_read_every_command_line_alike(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert read_plainly(arguments) == read_with_typer(arguments, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (
            ["append", "s", "T", "-0.5", "--meta", "a=b", "--meta=c=d"],
            {"data": "-0.5", "meta": ["a=b", "c=d"]},
        ),
        (["read", "-rn", "5", "--", "-5"], {"reverse": True, "limit": 5, "stream": "-5"}),
        (["-s", "x", "read", "--type=A", "--type", "B"], {"store": "x", "type": ["A", "B"]}),
        (["-s", "x", "read", "-sy"], {"store": "y"}),
        (["read", "--limit", "9" * 5000], {"limit": 2**63 - 2}),
    ],
)
def test_the_usual_forms_are_plain(arguments: list[str], values: dict[str, Any]) -> None:
    found = read_plainly(arguments)
    assert found is not None
    assert {name: found[name] for name in values} == values


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["read", "-h"], ["nothing"], ["read", "--limi", "5"], ["--version"]],
)
def test_help_and_mistakes_are_for_typer(arguments: list[str]) -> None:
    assert plain.parse(arguments) is None


def test_all_times_of_a_command_line_have_one_present() -> None:
    before = datetime.now(UTC)
    found = read_plainly(["read", "--since", "now", "--until", "-0s"])
    assert found is not None
    assert before - timedelta(microseconds=1) <= found["since"] == found["until"] <= datetime.now(UTC)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_are_sound(name: str) -> None:
    names = [parameter.name for parameter in TABLES[name]]
    flags = [flag for parameter in TABLES[name] for flag in parameter.flags]
    assert len(set(names)) == len(names)
    assert len(set(flags)) == len(flags)
    assert ("store" in names) == (name not in {"completion", "help", "mirror", "version"})
    assert all(name.isidentifier() for name in names)
    assert all(flag.startswith("--") or len(flag) == 2 for flag in flags)
    places = [parameter for parameter in TABLES[name] if not parameter.flags]
    assert not any(parameter.many for parameter in TABLES[name] if parameter.kind is FLAG)
    assert not any(place.many for place in places[:-1])


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ([], None),
        (["a"], {"name": "a", "position": []}),
        (["a", "1"], {"name": "a", "position": ["1"]}),
        (["a", "1", "2", "--", "-3"], {"name": "a", "position": ["1", "2", "-3"]}),
    ],
)
def test_the_last_argument_can_take_all_words_that_are_left(words: list[str], texts: Values) -> None:
    table = (argument("NAME", "", required=True), argument("POSITION", "", COUNT, many=True))
    assert plain.parse_texts(table, words) == texts


UNUSED = {
    *(
        "typer",
        "rich",
        "msgspec",
        "filelock",
        "dataclasses",
        "inspect",
        "typing",
        "re",
        "json",
        "uuid",
        "enum",
    ),
    *("contextlib", "platform", "subprocess", "tempfile", "hashlib", "csv", "signal"),
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["append", "s", "T", '{"a":1}'],
        ["append", "s", "T"],
        ["append", "s", "T", "-5", "-e", "exists"],
        ["read"],
        ["read", "s", "-n1"],
    ],
)
def test_append_and_read_import_only_what_they_use(tmp_path: Path, arguments: list[str]) -> None:
    script = (
        "import sys; from evlog.cli import app; code = app.run(sys.argv[2:]);"
        "print(code, *set(sys.argv[1].split()) & set(sys.modules))"
    )
    store = ("-s", str(tmp_path / "x"))
    assert run_process(*store, "append", "s", "T").code == 0
    path = os.pathsep.join(path for path in sys.path if path)
    done = run_python("-S", "-c", script, " ".join(UNUSED), *store, *arguments, env={"PYTHONPATH": path})
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("arguments", [["streams"], ["info"], ["tail"], ["tail", "s", "-n", "1"]])
def test_other_plain_command_lines_import_no_typer(tmp_path: Path, arguments: list[str]) -> None:
    script = (
        "import sys; from evlog.cli import app; code = app.run(sys.argv[1:]);"
        "print(code, *{'typer', 'rich', 'msgspec', 'filelock', 'dataclasses', 'inspect'} & set(sys.modules))"
    )
    store = ("-s", str(tmp_path / "x"))
    assert run_process(*store, "append", "s", "T").code == 0
    done = run_python("-c", script, *store, *arguments)
    assert done.stdout.splitlines()[-1] == "0"
