"""The conditions of `evlog append` on other streams and on tags: --if-version, --if-none, --after."""

from __future__ import annotations

from evlog.cli._support.options import parse_version
from evlog.errors import InvalidArgument
from evlog.model.appends import IfVersion
from evlog.model.queries import IfNone, Query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.cli._support.parameters import Given
    from evlog.model.types import Condition


def parse_conditions(given: Given) -> list[Condition]:
    """Return the conditions that the options state, checked."""
    conditions: list[Condition] = []
    for text in given.if_version:
        stream, equals, version = text.rpartition("=")
        if not (equals and stream):
            raise InvalidArgument(
                f"--if-version {text!r} is not STREAM=N", "write for example --if-version course-1=7"
            )
        conditions.append(IfVersion(stream, parse_version(version, "--if-version")))
    if given.if_none:
        query = Query.parse(given.if_none[0])
        for text in given.if_none[1:]:
            query |= Query.parse(text)
        conditions.append(IfNone(query, given.after or 0))
    elif given.after is not None:
        raise InvalidArgument("--after says after which position --if-none counts", "add --if-none QUERY")
    return conditions
