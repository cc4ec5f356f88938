"""A pin: the head digest that an earlier `verify` printed, to check that history up to there is the same."""

from __future__ import annotations

import re

from evlog.errors import InvalidArgument
from evlog.model.named import NamedTuple

_PIN = re.compile(r"(\d{1,20}):([0-9a-fA-F]{64})", re.ASCII)


class Pin(NamedTuple):
    """A head digest that an earlier report gave."""

    position: int
    digest: str


def maybe_parse_pin(against: str | None, *, quick: bool) -> Pin | None:
    """Return the pin that `verify` is given as `POSITION:DIGEST`; None if it is given none.

    Raises:
        InvalidArgument: it is something else, or the check is a quick one.
    """
    if against is None:
        return None
    if quick:
        raise InvalidArgument("against needs every event, and quick reads few; give one of them")
    match = _PIN.fullmatch(against.strip()) if isinstance(against, str) else None
    if match is None:
        raise InvalidArgument(
            f"invalid digest {against!r}; pass POSITION:DIGEST, as an earlier verify printed it as digest"
        )
    return Pin(int(match[1]), match[2].lower())
