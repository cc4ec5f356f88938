"""Completion: what can follow an unfinished command line. A shell asks after every press of Tab.

1. A command's table of parameters says where the line is: after an option that takes a value, or at an
   argument.
2. Nothing is reported: where something is wrong, there are no candidates.
3. Names in a store come from `names.py`, within a tenth of a second.
"""

from __future__ import annotations

from bisect import bisect_left

from evlog.cli._support import options
from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.parameters import FLAG, PATH, STORE, Given, Parameter
from evlog.cli._support.plain import load
from evlog.errors import EvlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Final

    from evlog.cli._support.names import Names
    from evlog.store import EventStore

FILES: Final = ":files"
_MOST: Final = 200  # more names than this are shown by their next part
_HELP: Final = "--help\tShow how it is used"
_MOMENTS: Final = ("now", "today", "yesterday", "15m", "1h", "1d", "7d")
_EXPECTED: Final = ("any", "none", "exists")
later: list[Callable[[], None]] = []  # calls to make once the shell has its answer


def candidates_of_line(line: str, word: str) -> list[str]:
    """Return what can follow a whole line, as bash knows it.

    Args:
        line: up to the cursor, with the command's own name.
        word: what bash is going to replace: it ends a word at `=` and `:`, too.
    """
    words = _split(line)[1:] or [""]
    found = candidates(words)
    kept = words[-1].removesuffix(word) if words[-1].endswith(word) else ""
    return [candidate.removeprefix(kept) for candidate in found]


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last word can become, or FILES.

    Args:
        words: those after `evlog`; the last one is not finished, and can be empty.
    """
    try:
        found = _candidates(list(words[:-1]), words[-1])
        return [candidate for candidate in found if candidate.startswith((words[-1], FILES))]
    except (EvlogError, OSError):
        return []


def _split(line: str) -> list[str]:
    """Return the words of a line as a shell does; a quote that is still open is closed."""
    import shlex

    for end in ("", "'", '"', "\\"):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return [*words, ""] if not words or (line[-1:].isspace() and not end) else words
    return [""]


def _candidates(before: list[str], word: str) -> Iterable[str]:
    store = None
    while before and before[0].startswith("-"):
        flag = before.pop(0)
        if flag in STORE.flags:
            if not before:
                return [FILES]
            store = before.pop(0)
        elif flag.startswith("--store="):
            store = flag.removeprefix("--store=")
    if not before:
        own = [f"{name}\t{summary}" for name, summary in COMMANDS.items()]
        return [*own, "--store\t" + STORE.help, "--version\tShow the version", _HELP]
    name = before.pop(0)
    if name not in COMMANDS:
        return []
    module = load(name)
    actions = getattr(module, "SUBCOMMANDS", None)
    if actions is None:
        return _Line(name, module.PARAMETERS, before, word, store).candidates()
    if not before and not word.startswith("-"):
        return [f"{action}\t{found.HELP.partition(chr(10))[0]}" for action, found in actions.items()]
    action = before.pop(0) if before and before[0] in actions else module.DEFAULT
    return _Line(name, actions[action].PARAMETERS, before, word, store).candidates()


class _Line:
    """The rest of a command line, after the command's name."""

    def __init__(
        self, command: str, table: Sequence[Parameter], before: list[str], word: str, store: str | None
    ) -> None:
        self._command = command
        self._table = table
        self._word = word
        self._store = store
        self._given: set[str] = set()
        self._pending: Parameter | None = None  # the option whose value is to come
        self._arguments = 0
        self._only_arguments = False
        for done in before:
            self._read(done)

    def _read(self, word: str) -> None:
        if self._pending is not None:
            if self._pending.name == "store":
                self._store = word
            self._pending = None
        elif word == "--" and not self._only_arguments:
            self._only_arguments = True
        elif word.startswith("-") and word != "-" and not self._only_arguments:
            flag, equals, value = word.partition("=")
            found = self._option(flag)
            if found is not None:
                self._given.add(found.name)
                if found.kind is not FLAG and not equals:
                    self._pending = found
                elif found.name == "store":
                    self._store = value
        else:
            self._arguments += 1

    def _option(self, flag: str) -> Parameter | None:
        return next((parameter for parameter in self._table if flag in parameter.flags), None)

    def candidates(self) -> Iterable[str]:
        """Return words that can replace the last one; the caller drops those that do not begin with it."""
        if self._pending is not None:
            return self._values(self._pending, self._word)
        flag, equals, value = self._word.partition("=")
        if equals and flag.startswith("--") and not self._only_arguments:
            found = self._option(flag)
            values = [] if found is None or found.kind is FLAG else self._values(found, value)
            return [candidate if candidate == FILES else f"{flag}={candidate}" for candidate in values]
        if self._word.startswith("-") and not self._only_arguments:
            return [*self._flags(), _HELP]
        places = [parameter for parameter in self._table if not parameter.flags]
        if self._arguments < len(places):
            return self._values(places[self._arguments], self._word)
        return self._values(places[-1], self._word) if places and places[-1].many else []

    def _flags(self) -> Iterable[str]:
        for parameter in self._table:
            if parameter.flags and (parameter.many or parameter.name not in self._given):
                yield f"{max(parameter.flags, key=len)}\t{parameter.help}"

    def _values(self, parameter: Parameter, word: str) -> Iterable[str]:
        if parameter.choices:
            return parameter.choices
        if parameter.kind is PATH:
            return [FILES]
        make = _VALUES.get(parameter.name)
        return [] if make is None else make(self, word)

    # --- values by the parameter's name

    def streams(self, word: str) -> Iterable[str]:
        return _shortened(self._names().streams(word), word)

    def types(self, _word: str) -> Iterable[str]:
        return sorted(self._names().types)

    def categories(self, _word: str) -> Iterable[str]:
        return sorted(self._names().categories)

    def subscriptions(self, _word: str) -> Iterable[str]:
        if self._command not in {"subscriptions", "tail"}:
            return []
        with self._open() as store:
            return [info.name for info in store.subscriptions()]

    def fields(self, word: str) -> Iterable[str]:
        begun, comma, _ = word.rpartition(",")
        if self._command not in {"read", "tail"}:
            return []
        from evlog.cli._support.fields import EVENT_FIELDS

        taken = begun.split(",")
        return [f"{begun}{comma}{name}" for name in EVENT_FIELDS if name not in taken]

    def topics(self, _word: str) -> Iterable[str]:
        from evlog.cli.help import summaries

        return [
            *(f"{name}\t{summary}" for name, summary in summaries().items()),
            *(f"{name}\t{summary}" for name, summary in COMMANDS.items()),
        ]

    def _names(self) -> Names:
        from evlog.cli._support.names import find_names

        with self._open() as store:
            names, is_stale = find_names(store)
        if is_stale:
            later.append(self._update)
        return names

    def _update(self) -> None:
        from evlog.cli._support.names import update_in_background

        update_in_background(self._open)

    def _open(self) -> EventStore:
        return options.open_store(Given({"store": self._store}))


_VALUES: Final[dict[str, Callable[[_Line, str], Iterable[str]]]] = {
    "stream": _Line.streams,
    "type": _Line.types,
    "until_type": _Line.types,
    "fail_type": _Line.types,
    "category": _Line.categories,
    "name": _Line.subscriptions,
    "fields": _Line.fields,
    "topic": _Line.topics,
    "since": lambda _line, _word: _MOMENTS,
    "until": lambda _line, _word: _MOMENTS,
    "expect": lambda _line, _word: _EXPECTED,
    "shell": lambda _line, _word: ("bash", "zsh", "fish"),
}


def _shortened(names: list[str], prefix: str) -> list[str]:
    """Return sorted names; if there are very many, only how they begin, up to and including the next `-`."""
    if len(names) <= _MOST:
        return names
    begins: list[str] = []
    at = 0
    while at < len(names) and len(begins) < _MOST:
        name = names[at]
        cut = name.find("-", len(prefix)) + 1
        begins.append(name[:cut] if cut else name)
        at = bisect_left(names, f"{name[:cut]}\U0010ffff", at) if cut else at + 1
    return begins
