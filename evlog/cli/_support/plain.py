"""Reads a command line in the usual forms, without Typer, whose import takes longer than an append.

1. It reads what the tables of `parameters.py` declare, in the way Typer does: `--name VALUE`, `--name=VALUE`,
   `-n VALUE`, `-nVALUE`, `-rf`, options and arguments in any order, `--` before arguments only.
2. Anything else (help, a mistake, a command without a table) gives None, and Typer reads the line and
   answers.
3. tests/cli/test_plain.py checks that both readers give the same result for every command line.
"""

from __future__ import annotations

from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.parameters import FLAG, RAW, STORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType
    from typing import Any

    from evlog.cli._support.parameters import Parameter


def parse(arguments: Sequence[str]) -> tuple[ModuleType, dict[str, Any]] | None:
    """Return the command's module and the texts by parameter; None if Typer has to read the line."""
    found = _split_off_store(list(arguments))
    if found is None:
        return None
    store, name, rest = found
    if name not in COMMANDS:
        return None
    module = load(name)
    parameters = getattr(module, "PARAMETERS", None)
    texts = None if parameters is None else parse_texts(parameters, rest)
    if texts is None:
        return None
    if store is not None:
        texts.setdefault("store", store)
    return module, texts


def load(name: str) -> ModuleType:
    """Import the module of a command."""
    # importlib is not imported at start-up; this form of the statement's function returns the module itself.
    return __import__(f"evlog.cli.{name}", fromlist=["command"])


def _split_off_store(arguments: list[str]) -> tuple[str | None, str, list[str]] | None:
    """Return --store before the command's name, the name, and what follows it."""
    store = None
    while arguments:
        word = arguments.pop(0)
        if not word.startswith("-"):
            return store, word, arguments
        if store is not None:
            return None
        if word in STORE.flags and arguments:
            store = arguments.pop(0)
        elif word.startswith("--store="):
            store = word.removeprefix("--store=")
        elif word.startswith("-s") and len(word) > 2:
            store = word[2:]
        else:
            return None
    return None


def parse_texts(parameters: Sequence[Parameter], arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the texts of a command's parameters by name; None if something is not as the table says."""
    options = {name: parameter for parameter in parameters for name in parameter.flags}
    places = [parameter for parameter in parameters if not parameter.flags]
    numbers = takes_numbers(parameters)
    texts: dict[str, Any] = {}
    words: list[str] = []
    rest = list(reversed(arguments))
    while rest:
        word = rest.pop()
        if word == "--":
            words += reversed(rest)
            break
        if word == "-" or not word.startswith("-") or (numbers and is_negative_number(word)):
            words.append(word)
        elif not _take_option(word, rest, options, texts):
            return None
    if len(words) < sum(place.required for place in places):
        return None
    if places and places[-1].many:
        texts[places[-1].name] = words[len(places) - 1 :]
        del places[-1], words[len(places) :]
    if len(words) > len(places):
        return None
    for place, word in zip(places, words, strict=False):
        texts[place.name] = word
    return texts


def _take_option(word: str, rest: list[str], options: Mapping[str, Parameter], texts: dict[str, Any]) -> bool:
    """Take an option, or several short ones in a word, and the value; return whether that was possible."""
    name, equals, value = word.partition("=")
    if name in options and (len(name) > 2 or not equals):
        if options[name].kind is FLAG:
            texts[options[name].name] = True
            return not equals
        if not equals and not rest:
            return False
        return _put(options[name], value if equals else rest.pop(), texts)
    if word.startswith("--"):
        return False
    for at in range(1, len(word)):
        found = options.get(f"-{word[at]}")
        if found is None:
            return False
        if found.kind is not FLAG:
            tail = word[at + 1 :]
            return bool(tail or rest) and _put(found, tail or rest.pop(), texts)
        texts[found.name] = True
    return True


def _put(parameter: Parameter, value: str, texts: dict[str, Any]) -> bool:
    """Keep the value; return False for a second one of an option that takes one."""
    if parameter.many:
        texts.setdefault(parameter.name, []).append(value)
        return True
    if parameter.name in texts:
        return False
    texts[parameter.name] = value
    return True


def takes_numbers(parameters: Sequence[Parameter]) -> bool:
    """Return whether a command has an argument that can be a negative number, which is then not an option."""
    return any(parameter.kind is RAW and not parameter.flags for parameter in parameters)


def is_negative_number(word: str) -> bool:
    """Return whether the word is a negative number as JSON writes it, such as -5 or -0.5e3."""
    if not word[1:2].isdecimal() or not word.isascii() or "_" in word:
        return False
    try:
        float(word)
    except ValueError:
        return False
    return True
