"""Paths into JSON, such as `customer.name`, and picking what is at them without parsing the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from evlog.errors import InvalidArgument


def split_path(field: str) -> tuple[str, ...]:
    r"""Return the names in a dotted path; a leading dot is allowed, and a dot in a name is written as `\.`.

    Raises:
        InvalidArgument: a name in it is empty.
    """
    names = tuple(name.replace("\\.", ".") for name in re.split(r"(?<!\\)\.", field.removeprefix(".")))
    if not all(names):
        raise InvalidArgument(
            f"invalid field {field!r}", "use a name, or names with dots between them such as a.b"
        )
    return names


def pick_fields(paths: Sequence[tuple[str, ...]]) -> Callable[[bytes], Sequence[Any]]:
    """Return a function that checks a line and returns the raw JSON at each path, or msgspec.UNSET."""
    import msgspec

    if not paths:
        parse_any = msgspec.json.Decoder(msgspec.Raw).decode
        return lambda line: (parse_any(line),)  # nothing is looked up in it
    # One parse serves all paths, unless one path leads into a value that another one takes whole.
    plans: list[list[int]] = []
    for at, path in enumerate(paths):
        for plan in plans:
            if not any(_overlap(path, paths[other]) for other in plan):
                plan.append(at)
                break
        else:
            plans.append([at])
    parsers = [_plan_parser([paths[at] for at in plan]) for plan in plans]
    if len(parsers) == 1:
        return parsers[0]
    order = [at for plan in plans for at in plan]

    def pick(line: bytes) -> Sequence[Any]:
        found: list[Any] = [None] * len(order)
        for at, value in zip(order, [value for parse in parsers for value in parse(line)], strict=True):
            found[at] = value
        return found

    return pick


def _overlap(path: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(path), len(other))
    return path != other and path[:shared] == other[:shared]


def _plan_parser(paths: Sequence[tuple[str, ...]]) -> Callable[[bytes], Sequence[Any]]:
    import msgspec

    def shape(tails: Iterable[tuple[str, ...]]) -> Any:
        inner: dict[str, list[tuple[str, ...]]] = {}
        for tail in tails:
            inner.setdefault(tail[0], []).append(tail[1:])
        fields: list[tuple[str, Any, Any]] = []
        for name, rest in inner.items():
            attribute = attributes.setdefault(name, f"f{len(attributes)}")
            if rest[0]:
                nested = shape(rest)
                fields.append((attribute, nested, msgspec.field(default_factory=nested)))
            else:
                fields.append((attribute, msgspec.Raw, msgspec.UNSET))
        return msgspec.defstruct("Line", fields, rename={attributes[name]: name for name in inner}, gc=False)

    attributes: dict[str, str] = {}  # any name → one that Python can have
    parse = msgspec.json.Decoder(shape(paths)).decode
    get = attrgetter(*(".".join(attributes[name] for name in path) for path in paths))
    if len(paths) == 1:
        return lambda line: (get(parse(line)),)
    return lambda line: get(parse(line))


def pick_present(paths: list[tuple[str, ...]]) -> Callable[[bytes], Sequence[bytes | None]]:
    """Return a function from JSON to what is at each path in it, None where nothing is."""
    import msgspec

    unset = msgspec.UNSET
    pick = pick_fields(paths)

    def picked(data: bytes) -> Sequence[bytes | None]:
        try:
            found = pick(data)
        except (ValueError, RecursionError):  # a path leads through what is not an object
            return [find(data, path) for path in paths]
        return [None if raw is unset else bytes(raw) for raw in found] if unset in found else found

    return picked


def find(data: bytes, path: tuple[str, ...]) -> bytes | None:
    """Return the raw JSON at a path in an object, None if there is nothing."""
    import msgspec

    global _parse_object
    if _parse_object is None:
        _parse_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    raw: Any = data
    for name in path:
        try:
            raw = _parse_object(raw).get(name)
        except (ValueError, RecursionError):
            return None  # not an object, so nothing is in it
        if raw is None:
            return None
    return bytes(raw)


_parse_object: Any = None
