"""The parameters of commands: one table for each command, and the values of one call.

A command's module holds PARAMETERS, a tuple of `argument`, `option` and `flag`. Both readers of command lines
are made from it: `plain.py`, which imports next to nothing, and the Typer application in `group.py`, which
prints help and usage errors. Both give texts to `run_command`, so a value is checked and converted in one
place.
"""

from __future__ import annotations

import os
import sys

from evlog.errors import EvlogError, InvalidArgument, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from types import ModuleType
    from typing import Any, Final

TEXT: Final = "text"  # must be UTF-8
RAW: Final = "raw"  # any bytes: DATA
PATH: Final = "path"  # any bytes: the name of a file
COUNT: Final = "count"  # a whole number
BOUND: Final = "bound"  # the same, such as a limit; a number beyond every position is cut to the largest one
DURATION: Final = "duration"  # seconds, or for example 15m
WHEN: Final = "when"  # ISO 8601, or for example 10:51 or -15m; an aware datetime
FLAG: Final = "flag"
LARGEST: Final = 2**63 - 1
_LONGEST_NUMBER: Final = 4000  # digits; int() refuses more than 4300


class Parameter:
    """An argument (without flags) or an option of a command.

    Attributes:
        name: of the attribute of `Given`.
        kind: one of the constants above.
        many: it may be repeated; its value is a list.
        least, most: the bounds of a number.
        choices: the texts that are allowed; none: any.
    """

    __slots__ = ("choices", "flags", "help", "kind", "least", "many", "metavar", "most", "name", "required")

    def __init__(
        self,
        name: str,
        flags: tuple[str, ...],
        metavar: str | None,
        help: str,
        kind: str,
        *,
        many: bool = False,
        least: int | None = None,
        most: int | None = None,
        choices: tuple[str, ...] = (),
        required: bool = False,
    ) -> None:
        self.name = name
        self.flags = flags
        self.metavar = metavar
        self.help = help
        self.kind = kind
        self.many = many
        self.least = least
        self.most = most
        self.choices = choices
        self.required = required

    @property
    def title(self) -> str:
        """What a message calls it: its longest flag, or an argument's name in capitals."""
        return max(self.flags, key=len) if self.flags else str(self.metavar)


def argument(
    metavar: str, help: str, kind: str = TEXT, *, required: bool = False, many: bool = False
) -> Parameter:
    """Return an argument; its attribute is the metavar in small letters. Only the last one can be `many`."""
    return Parameter(metavar.lower(), (), metavar, help, kind, required=required, many=many)


def option(
    flags: str, metavar: str, help: str, kind: str = TEXT, *, name: str = "", **bounds: Any
) -> Parameter:
    """Return an option with a value; flags are separated by a blank, the first one names the attribute."""
    names = tuple(flags.split())
    attribute = name or names[0].lstrip("-").replace("-", "_")
    return Parameter(attribute, names, metavar, help, kind, **bounds)


def choice(flags: str, choices: str, help: str) -> Parameter:
    """Return an option whose value is one of some words, given as `a|b|c`."""
    return option(flags, f"[{choices}]", help, choices=tuple(choices.split("|")))


def flag(flags: str, help: str) -> Parameter:
    """Return an option without a value."""
    names = tuple(flags.split())
    return Parameter(names[0].lstrip("-").replace("-", "_"), names, None, help, FLAG)


STORE: Final = option(
    "--store -s",
    "PATH",
    "The store's directory or URL; else $EVLOG_STORE, else the nearest .evlog from here upwards.",
    PATH,
)
CATEGORY: Final = option("--category", "NAME", "Streams named NAME or NAME-….")
FILTER: Final = (
    CATEGORY,
    option("--type", "NAME", "Only this event type (repeatable).", many=True),
    option("--tag", "TEXT", "Only with this tag (repeatable: with all of them).", many=True),
    option("--correlation", "ID", "Only of this correlation id."),
    option("--meta", "KEY=VALUE", "Only with this in the metadata (repeatable: with all of it).", many=True),
    option("--grep -g", "PATTERN", "Only with this text or regular expression (repeatable).", many=True),
    option("--since", "WHEN", "Written then or later.", WHEN),
)
OUTPUT: Final = choice(
    "--output -o", "json|pretty|table|data|csv", "The form; table on a terminal, else json."
)
LISTING: Final = choice("--output -o", "json|pretty|table|csv", "The form; table on a terminal, else json.")
FIELDS: Final = option("--fields", "a,b,data.c", "Only these fields, in this order.")
LISTED_FIELDS: Final = option("--fields", "a,b,c", "Only these fields, in this order.")


class Subcommand:
    """A part of a command that has its own help, in the shape of a command's module."""

    __slots__ = ("HELP", "PARAMETERS", "command")

    def __init__(
        self, help: str, parameters: tuple[Parameter, ...], command: Callable[[Given], int | None]
    ) -> None:
        self.HELP = help
        self.PARAMETERS = parameters
        self.command = command


class Given:
    """The values of one command line, as attributes; None, False or an empty list for what was left out.

    `now` is the present to which all of its times refer; None if there are none.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def run_command(module: ModuleType | Subcommand, texts: Mapping[str, Any]) -> Any:
    """Run a command with the texts of its parameters; give its errors advice for a user of the command."""
    try:
        if texts.get("store") is not None and hasattr(module, "NO_STORE"):
            raise InvalidArgument("the command has no option --store", module.NO_STORE)
        return module.command(make_given(module.PARAMETERS, texts))
    except EvlogError as error:
        from evlog.cli._support.advice import advise

        flags = {name for parameter in module.PARAMETERS for name in parameter.flags}
        advise(error, flags, store=texts.get("store"))
        raise


def make_given(parameters: Sequence[Parameter], texts: Mapping[str, Any]) -> Given:
    """Check and convert what was given.

    Args:
        parameters: the command's table.
        texts: by name: a text, a list of texts, or True for a flag; parameters left out are missing or None.

    Raises:
        InvalidArgument: a value is not what its parameter takes.
    """
    given = [parameter for parameter in parameters if texts.get(parameter.name) is not None]
    now = _now() if any(parameter.kind is WHEN for parameter in given) else None
    values: dict[str, Any] = {"now": now}
    for parameter in parameters:
        text = texts.get(parameter.name)
        if parameter.kind is FLAG:
            values[parameter.name] = bool(text)
        elif parameter.many:
            values[parameter.name] = [_convert(parameter, one, now) for one in text or ()]
        else:
            values[parameter.name] = None if text is None else _convert(parameter, text, now)
    return Given(values)


def _now() -> datetime:
    from evlog.model.events import now_moment

    return now_moment()


def _convert(parameter: Parameter, text: str, now: datetime | None) -> Any:
    kind = parameter.kind
    if kind is TEXT:
        if not text.isascii():
            _check_unicode(parameter, text)
        if parameter.choices and text not in parameter.choices:
            raise InvalidArgument(
                f"invalid value {text!r} for {parameter.title}", f"use one of {', '.join(parameter.choices)}"
            )
        return text
    if kind is COUNT or kind is BOUND:
        return _count(parameter, text)
    if kind is DURATION:
        from evlog.model.when import parse_duration

        return parse_duration(text)
    if kind is WHEN:
        from evlog.model.when import parse_when

        assert now is not None  # as for every time
        return parse_when(text, now)
    if kind is PATH and not text:
        raise InvalidArgument(f"{parameter.title} is empty", "give a path")
    if kind is PATH and sys.getfilesystemencoding() != "utf-8":
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))  # see app.py: arguments are UTF-8
    return text


def _check_unicode(parameter: Parameter, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{parameter.title} is not valid UTF-8", "give valid text") from None


def _count(parameter: Parameter, text: str) -> int:
    least, most = parameter.least or 0, parameter.most
    found = maybe_number(text, cut=parameter.kind is BOUND)
    if found is None or found < least or (most is not None and found > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidArgument(f"invalid value {text!r} for {parameter.title}", f"use a whole number {bounds}")
    return min(found, LARGEST - 1)  # what follows it can be counted, too: the version after it


def maybe_number(text: str, *, cut: bool = False) -> int | None:
    """Return a whole number; None for any other text.

    Args:
        cut: return the largest number for a larger one.

    Raises:
        InvalidArgument: it is larger than any position or version.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    if len(text) > _LONGEST_NUMBER or int(text) > LARGEST:
        if cut:
            return LARGEST
        raise InvalidArgument(f"the number {shorten(text)} is too large", f"use at most {LARGEST}")
    return int(text)
