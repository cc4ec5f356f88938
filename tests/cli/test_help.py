"""`evlog help`: the list of topics, pages in a pipe and on a terminal, commands, and slips."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.plain import load
from tests.cli.conftest import Evlog, on_terminal
from tests.support.programs import ROOT

EXAMPLE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted((ROOT / "evlog" / "guide").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_a_heading_and_one_line_for_the_list(page: Path) -> None:
    heading, empty, summary, after, *_ = page.read_text("utf-8").splitlines()
    assert heading.startswith("# ")
    assert empty == after == ""
    assert summary.endswith(".")
    assert len(summary) <= 80 - 4 - max(len(other.stem) for other in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_prose_of_a_page_fits_80_columns(page: Path) -> None:
    """An example is a line that can be copied, and a row of a table cannot be broken."""
    prose = EXAMPLE.sub("", page.read_text("utf-8")).splitlines()
    assert [line for line in prose if len(line) > 80 and not line.startswith("|")] == []


def test_help_alone_lists_every_topic(evlog: Evlog) -> None:
    result = evlog("help")
    assert (result.code, result.err) == (0, "")
    listed = [line.split()[0] for line in result.out.decode().splitlines() if line.startswith("  ")]
    assert sorted(listed) == [page.stem for page in PAGES]
    assert listed[0] == "concepts"


def test_a_page_is_plain_markdown_in_a_pipe(evlog: Evlog) -> None:
    assert evlog("help", "concepts").out == (ROOT / "evlog" / "guide" / "concepts.md").read_bytes()
    assert evlog("help", "Concepts").code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_its_help(evlog: Evlog, name: str) -> None:
    assert evlog(name, "--help").out.strip() in evlog("help", name).out


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("concept", "`evlog help concepts`"),
        ("tial", "`evlog help tail`"),
        ("rm", "`evlog help delete`"),
        ("qqqq", "`evlog help` lists the topics"),
        ("nope", "`evlog help` lists the topics"),
    ],
)
def test_an_unknown_topic_is_a_usage_error_that_says_what_was_meant(
    evlog: Evlog, slip: str, meant: str
) -> None:
    result = evlog("help", slip)
    assert (result.code, result.out, result.err.count("\n")) == (2, b"", 1)
    assert f"no help topic '{slip}'; " in result.err
    assert meant in result.err


def test_a_page_is_formatted_on_a_terminal(here: Path) -> None:
    shown = on_terminal("help", "concepts", PAGER="cat")
    assert "| word |" not in shown
    assert "\x1b[" in shown
    plain = on_terminal("help", "concepts", PAGER="cat", NO_COLOR="1")
    assert "\x1b" not in plain
    assert all(len(line) <= 80 for line in plain.splitlines())


def test_an_example_is_shown_as_it_can_be_copied(here: Path) -> None:
    shown = on_terminal("help", "import", PAGER="cat", NO_COLOR="1")
    examples = EXAMPLE.findall((ROOT / "evlog" / "guide" / "import.md").read_text("utf-8"))
    assert max(len(line) for example in examples for line in example.splitlines()) > 80
    assert all(f"\n{example}" in shown for example in examples)


def test_a_page_goes_through_the_pager(here: Path) -> None:
    assert on_terminal("help", "concepts", PAGER="sed -n 's/^.*Concepts.*$/paged/p'").strip() == "paged"
    assert on_terminal("help", PAGER="false", EVLOG_PAGER="sed 's/^/> /'").startswith("> Topics")


@pytest.mark.parametrize("pager", ["", "no-such-pager", "exec /dev/null"])
def test_a_pager_that_cannot_run_does_not_hide_the_page(here: Path, pager: str) -> None:
    assert "concepts" in on_terminal("help", PAGER=pager)


def test_a_pager_that_ends_early_is_not_an_error(here: Path) -> None:
    assert on_terminal("help", "concepts", PAGER="true") == ""


def test_an_action_of_a_command_has_help_of_its_own(evlog: Evlog) -> None:
    shown = evlog("help", "subscriptions", "reset")
    assert (shown.code, shown.out) == (0, evlog("subscriptions", "reset", "--help").out)
    slip = evlog("help", "subscriptions", "rset")
    assert (slip.code, slip.out) == (2, b"")
    assert "did you mean `evlog subscriptions reset`?" in slip.err
    assert "`evlog read` has no actions" in evlog("help", "read", "x").err
    assert evlog("help", "concepts", "x").code == 2


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["append"], "[STREAM] [TYPE] [DATA]"),
        (["export"], "FILE"),
        (["mirror"], "SOURCE [DESTINATION]"),
        (["show"], "ID..."),
        (["subscriptions", "replay"], "NAME [POSITION]..."),
    ],
)
def test_the_usage_says_which_arguments_are_needed(evlog: Evlog, arguments: list[str], usage: str) -> None:
    first = evlog(*arguments, "--help").out.decode().splitlines()[0]
    assert first == f"Usage: evlog {' '.join(arguments)} [OPTIONS] {usage}"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_of_a_help_text_is_broken(evlog: Evlog, name: str) -> None:
    """An option that ends a line with its hyphen is two words, and cannot be copied or searched."""
    shown = set(evlog(name, "--help").out.decode().split())
    module = load(name)
    texts = [module.HELP, *(parameter.help for parameter in getattr(module, "PARAMETERS", ()))]
    words = {word for text in texts for word in text.split()} - {"\b"}
    assert words <= shown
    assert not [word for word in words if word.startswith("--") and word.endswith("-")]
