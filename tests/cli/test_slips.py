"""What a user who knows other tools types is answered with what to type instead."""

from __future__ import annotations

import json
import re

import pytest

from evlog.cli._support import advice, slips
from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.plain import load
from tests.cli.conftest import Evlog

SUBSCRIPTIONS = load("subscriptions").SUBCOMMANDS


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("ls", "`evlog streams`"),
        ("list", "`evlog streams`"),
        ("cat order-1", "`evlog read`"),
        ("subs", "`evlog subscriptions`"),
        ("raed", "`evlog read`"),
        ("rm order-1", "`evlog delete`"),
        ("stats", "`evlog info`"),
        ("subscriptions stats audit", "`evlog subscriptions show`"),
        ("publish order-1 T", "`evlog append`"),
        ("subscriptions ls", "`evlog subscriptions list`"),
        ("subscriptions rm audit", "`evlog subscriptions delete`"),
        ("subscriptions rest audit --to 1", "`evlog subscriptions reset`"),
        ("append s T --key k", "--idempotency-key"),
        ("append s T --expected 1", "--expect"),
        ("append --stream s", "`evlog append STREAM TYPE`"),
        ("read --where type=T", "--type"),
        ("read --json", "-o json"),
        ("read --csv", "-o csv"),
        ("read --limt 3", "--limit"),
        ("read --LIMIT 3", "--limit"),
        ("read --cat order", "--category"),
        ("read -f", "`evlog tail -f`"),
        ("read --follow", "`evlog tail -f`"),
        ("tail --limit 3", "-n"),
        ("tail --group audit", "--name"),
        ("tail -5", "-n 5"),
        ("subscriptions reset audit --too 3", "--to"),
        ("--verzion", "--version"),
        ("-V", "--version"),
        ("--hlep", "--help"),
        ("read --hlep", "--help"),
        ("subscriptions reset --hlep", "--help"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(evlog: Evlog, line: str, meant: str) -> None:
    result = evlog(*line.split())
    assert (result.code, result.out, result.err.count("\n")) == (2, b"", 1)
    assert meant in result.err.partition("(")[0]


@pytest.mark.parametrize("line", ["xyzzy", "open", "date", "subscriptions xyzzy", "read --xyzzy", "-q"])
def test_what_resembles_nothing_is_answered_with_where_the_names_are(evlog: Evlog, line: str) -> None:
    result = evlog(*line.split())
    assert result.code == 2
    assert "did you mean" not in result.err
    assert "--help`" in result.err or "use one of list, show" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["append", "s", "T", '{"n":', "1}"],
            "unexpected argument '1}'; quote DATA for the shell, as in '{\"amount\": 10}'",
        ),
        (["read", "a", "b", "c"], "unexpected argument 'b c'; `evlog read --help` shows how it is used"),
        (["init", "shop"], "unexpected argument 'shop'; --store names the store (`evlog init --help` shows"),
        (["read", "-n", "1", "-n", "2"], "--limit is given twice; give it once"),
        (["append", "$x", "T"], "which is reserved for the store's own streams; choose another name"),
        (["append", "s", "T", "--tag", "x" * 300], f"event tag '{'x' * 59}…{'x' * 9}' is 300 bytes long"),
        (
            ["init", "--segment-bytes", "0"],
            "invalid value '0' for --segment-bytes; use a whole number from 1 to ",
        ),
        (["mirror", "nosuch", "out"], "nosuch; check its name"),
    ],
)
def test_a_message_says_what_is_wrong_then_what_to_do(evlog: Evlog, words: list[str], message: str) -> None:
    refused = evlog(*words)
    assert (refused.out, refused.err.count("\n")) == (b"", 1)
    assert message in refused.err


def test_a_subscription_with_another_filter_is_named_with_both(evlog: Evlog) -> None:
    evlog("append", "s", "T")
    evlog("tail", "--name", "n", "--type", "T")
    refused = evlog("tail", "--name", "n", "--type", "A", "--type", "B", "--meta", "k=v")
    assert refused.code == 2
    assert "'n' is for types 'T', not for types 'A' and 'B', metadata k=v; " in refused.err


@pytest.mark.parametrize("word", sorted(slips._COMMANDS))
def test_every_known_command_word_leads_to_a_command(word: str) -> None:
    known = (*COMMANDS, *SUBSCRIPTIONS)
    assert any(name in known for name in slips._COMMANDS[word])


def test_every_known_option_word_leads_to_an_option() -> None:
    tables = [getattr(load(name), "PARAMETERS", ()) for name in COMMANDS]
    tables += [found.PARAMETERS for found in SUBSCRIPTIONS.values()]
    flags = {"--version", *(flag for table in tables for parameter in table for flag in parameter.flags)}
    for word, meant in slips._OPTIONS.items():
        assert any(name.partition(" ")[0] in flags for name in meant), word
    for (command, _), text in slips._OTHERWISE.items():
        assert command in COMMANDS
        assert set(re.findall(r"(?<=evlog )\w+", text)) <= set(COMMANDS)


def test_version_is_a_command_too(evlog: Evlog) -> None:
    assert evlog("version").out == evlog("--version").out != b""


@pytest.mark.parametrize(
    ("name", "meant"),
    [("ordr-42", "order-42"), ("Order-42", "order-42"), ("order_42", "order-42"), ("biling", "billing")]
    + [(name, None) for name in ("order-43", "order-422", "order-", "payment-42", "x")],
)
@pytest.mark.parametrize("command", ["read", "tail"])
def test_a_misspelt_stream_is_answered_with_its_name_but_never_with_another_number(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch, command: str, name: str, meant: str | None
) -> None:
    evlog("append", "order-42", "T")
    evlog("append", "billing", "T")
    result = evlog(command, name)
    assert (result.code, result.out) == (5, b"")
    if meant is None:
        assert "did you mean" not in result.err
    else:
        assert result.err == f"evlog: no stream {name!r}; did you mean {meant!r}?\n"
    monkeypatch.setattr(advice, "_RECENT_EVENTS", 0)
    assert "`evlog streams` lists the streams" in evlog(command, name).err


def test_a_deleted_stream_is_not_suggested_for_itself(evlog: Evlog) -> None:
    evlog("append", "order-42", "T")
    evlog("delete", "order-42")
    result = evlog("state", "order-42")
    assert (result.code, result.err.partition("; ")[2]) == (5, "`evlog streams` lists the streams\n")


@pytest.mark.parametrize("name", ["order", "order-", "order-*", "order*"])
@pytest.mark.parametrize("command", ["read", "tail"])
def test_a_category_that_is_read_as_a_stream_is_pointed_to(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    evlog("append", "order-1", "T")
    result = evlog(command, name)
    assert (result.code, result.out) == (5, b"")
    assert f"`evlog {command} --category order`" in result.err
    assert "--category" not in evlog(command, "other").err
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    assert json.loads(evlog(command, name).err)["error"] == "StreamNotFound"
