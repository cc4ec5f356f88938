"""Tags: short texts on an event, kept first in its metadata as `$tags`; `events.py` reads them. Pure.

    {"$tags":["course:c1","student:s9"],"user":"ann"}

1. An event has tags if its metadata begins with `TAGS_BEGIN`, byte for byte. So whether it has any is one
   comparison, and its tags are found without parsing the rest.
2. No user writes `$tags`: metadata that is given with that name is refused.
3. Users see the metadata without `$tags`, and the tags beside it.

Imported only where tags are given.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument, InvalidEvent, shorten
from evlog.model.arguments import list_of
from evlog.model.events import TAGS_BEGIN, maybe_name_fault, tags_of
from evlog.model.json_text import decode_without_numbers, encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    from evlog.model.events import Record

MAX_TAGS: Final = 64
_NAME: Final = "$tags"
_IN_JSON: Final = frozenset(',]"\\')
_BEFORE_TAG: Final = b"[,"
_REDACTED_NAME: Final = "$redacted"
_ADVICE: Final = "use 1 to 255 bytes of printable UTF-8, such as course:c1"


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return an event's tags in their order, each once, or raise InvalidEvent."""
    found = tuple(dict.fromkeys(_checked(tags)))
    if len(found) > MAX_TAGS:
        raise InvalidEvent("tags", f"are {len(found)}; an event has at most {MAX_TAGS}")
    return found


def check_wanted(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags that are asked for, sorted, each once, or raise InvalidArgument."""
    try:
        return tuple(sorted(set(_checked(tags))))
    except InvalidEvent as error:
        raise InvalidArgument(f"the tag {error.reason}") from None


def _checked(tags: Iterable[str]) -> list[str]:
    if tags.__class__ is not list and isinstance(tags, str | bytes):
        raise InvalidArgument(f"tags is the text {tags!r:.80}; give a list of tags")
    checked = list_of("tags", tags)
    for tag in checked:
        reason = maybe_name_fault(tag)
        if reason is not None:
            raise InvalidEvent("tag", f"{shorten(tag)} {reason}; {_ADVICE}")
    return checked


def add_tags(tags: Iterable[str], metadata: bytes | None) -> bytes | None:
    """Return encoded metadata with the tags in it."""
    checked = check_tags(tags)
    if not checked:
        return metadata
    rest = b"}" if metadata is None else metadata.strip()[1:].lstrip()
    array = '["' + '","'.join(checked) + '"]'
    if "\\" in array or array.count('"') > 2 * len(checked):
        array = encode_json(checked)
    return b'{"$tags":%b%b%b' % (array.encode(), b"" if rest.startswith(b"}") else b",", rest)


def refuse_names(metadata: bytes) -> None:
    """Raise InvalidEvent if encoded metadata has a name of evlog's own, also one written with escapes."""
    names = decode_without_numbers(metadata.decode())
    if _NAME in names:
        raise InvalidEvent("tags", "are in the metadata, as $tags; give them as tags")
    if _REDACTED_NAME in names:
        raise InvalidEvent("metadata", "has the name $redacted, which is evlog's own; use another one")


def tag_matcher(tags: Iterable[str]) -> Callable[[Record], bool]:
    """Return a function that says whether a record has all of these tags (at least one).

    Most answers need no parsing. A tag is written in one way, so metadata without its text does not have it.
    A text after `[` or `,`, and before the first `"]`, is a tag, unless it has characters that could be a
    part of the JSON around it.
    """
    wanted = frozenset(tags)
    texts = [encode_json(tag).encode() for tag in wanted]
    is_plain = _IN_JSON.isdisjoint("".join(wanted))

    def matches(record: Record) -> bool:
        metadata = record[8]
        if metadata is None or not metadata.startswith(TAGS_BEGIN):
            return False
        end = metadata.find(b'"]') if is_plain else 0
        is_sure = True
        for text in texts:
            at = metadata.find(text)
            if at < 0:
                return False
            if at > end or metadata[at - 1] not in _BEFORE_TAG:
                is_sure = False
        return is_sure or wanted.issubset(tags_of(metadata))

    return matches
