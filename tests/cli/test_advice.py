"""Advice: a message names only options that the command has."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from types import ModuleType

import pytest

from evlog import errors
from evlog.cli._support import advice
from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.plain import load
from tests.cli.conftest import Evlog

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
OTHER_COMMAND = re.compile(r"`[^`]*`|^ *.*\b(?:evlog|pip) .*$", re.MULTILINE)  # and an example
CALLS = {
    "mirror": ["nosuch", "out"],
    "fork": ["out"],
    "backup": ["out"],
    "export": ["out.jsonl"],
    "redact": ["1", "--reason", "r"],
    "delete": ["s"],
    "retain": ["s", "--max-count", "1"],
    "show": ["1"],
    "trace": ["1"],
    "sql": ["select 1"],
    "transact": ["s", "--exec", "cat"],
    "append": ["s", "T", "--no-create"],
}
"""What these commands need to look for their store."""
WITHOUT_STORE = {"completion", "help", "init", "version"}


def flags_of(module: ModuleType) -> set[str]:
    """Return the options of a command and its subcommands."""
    parts = module.SUBCOMMANDS.values() if hasattr(module, "SUBCOMMANDS") else [module]
    return {flag for part in parts for each in part.PARAMETERS for flag in each.flags}


def messages(module: ModuleType) -> list[str]:
    """Return the texts in a module's code that are not its documentation or its help."""
    tree = ast.parse(inspect.getsource(module))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [node.value for node in constants if id(node) not in documentation]
    return [text for text in texts if isinstance(text, str) and text != module.HELP]


@pytest.mark.parametrize("name", sorted({*COMMANDS} - WITHOUT_STORE))
def test_a_missing_store_is_named_with_an_option_of_the_command(evlog: Evlog, name: str) -> None:
    result = evlog(name, *CALLS.get(name, ()))
    assert result.code == 5
    assert "no store at" in result.err
    assert set(OPTION.findall(result.err)) <= flags_of(load(name)), result.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_message_names_only_options_of_its_command(name: str) -> None:
    module = load(name)
    named = {option for text in messages(module) for option in OPTION.findall(OTHER_COMMAND.sub("", text))}
    assert named <= flags_of(module) | {"--help"}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "error",
    [
        errors.StoreNotFound("p"),
        errors.StoreNotFound("p", was_open=True),
        errors.LockTimeout("p", 1.0),
        errors.SubscriptionBehind("n", 1, 2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_advice_names_only_options_of_the_command(error: errors.EvlogError, name: str) -> None:
    flags = flags_of(load(name))
    advice.advise(error, flags)
    assert str(error).startswith(f"{error.problem}; ")
    assert set(OPTION.findall(str(error))) <= flags


def test_advice_for_a_lock_names_the_option_where_there_is_one() -> None:
    error = errors.LockTimeout("p", 1.0)
    advice.advise(error, flags_of(load("append")))
    assert str(error).endswith("; try again, or increase --lock-timeout")
    advice.advise(error, flags_of(load("retain")))
    assert str(error).endswith("; try again")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("read --grep ''", "the pattern to find is empty; give a text or a regular expression"),
        ("fork copy --at 9", "position 9 is beyond the log's end, 1; give 1 at most"),
        (
            "retain s-1 --before 9",
            "cannot hide what is before version 9 of 's-1', whose next event has version 2; give at most 2",
        ),
        (
            "retain --category s --before 2",
            "a category has no versions to hide; limit its streams by count or by age",
        ),
        (
            "retain s-1 --max-count 4294967296",
            "invalid value '4294967296' for --max-count; use a whole number from 1 to 4294967295",
        ),
        ("retain s-1 --max-age 99999999d", "--max-age '99999999d' is too long; use at most 12725829d"),
        (
            "init --segment-bytes 4294967296",
            "invalid value '4294967296' for --segment-bytes; use a whole number from 1 to 3221225367",
        ),
        ("append s-1 T --correlation-id ''", "--correlation-id is empty; give a text, or leave it out"),
        (
            "append s-1 T --meta '$tags=x'",
            "event tags are in the metadata, as $tags; give them as tags",
        ),
        (
            "subscriptions drop n 9",
            (
                "subscription 'n' has no parked event at position 9; "
                "give the position of an event that is parked"
            ),
        ),
    ],
)
def test_a_message_does_not_name_an_argument_of_the_library(evlog: Evlog, line: str, message: str) -> None:
    evlog("append", "s-1", "T")
    evlog("tail", "--name", "n", "--idle", "0")
    result = evlog(*shlex.split(line))
    assert (result.code, result.err) == (2, f"evlog: {message}\n")
