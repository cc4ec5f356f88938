"""Tags: short texts on an event, kept first in its metadata as `$tags`; `events.py` reads them. Pure.

    {"$tags":["course:c1","student:s9"],"user":"ann"}

1. An event has tags if its metadata begins with `TAGS_BEGIN`, byte for byte. So whether it has any is one
   comparison, and its tags are found without parsing the rest.
2. No user writes `$tags`: metadata that is given with that name is refused.
3. Users see the metadata without `$tags`, and the tags beside it.

Imported only where tags are given.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument, InvalidEvent
from evlog.model.events import TAGS_BEGIN, maybe_name_fault, tags_of
from evlog.model.json_text import encode_json, make_decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

MAX_TAGS: Final = 64
_NAME: Final = "$tags"
_decode_names: Final = make_decoder(str)  # numbers stay text: they may be of any size
_ADVICE: Final = "use 1 to 255 bytes of printable UTF-8, such as course:c1"


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return an event's tags in their order, each once, or raise InvalidEvent."""
    found = tuple(dict.fromkeys(_checked(tags, InvalidEvent)))
    if len(found) > MAX_TAGS:
        raise InvalidEvent("tags", f"are {len(found)}; an event has at most {MAX_TAGS}")
    return found


def check_wanted(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags that are asked for, sorted, each once, or raise InvalidArgument."""
    return tuple(sorted(set(_checked(tags, None))))


def _checked(tags: Iterable[str], error: type[InvalidEvent] | None) -> list[str]:
    if isinstance(tags, str | bytes):
        raise InvalidArgument(f"tags is the text {tags!r:.80}; give a list of tags")
    checked = list(tags)
    for tag in checked:
        reason = maybe_name_fault(tag)
        if reason is not None:
            if error is not None:
                raise error("tag", f"{tag!r:.80} {reason}; {_ADVICE}")
            raise InvalidArgument(f"the tag {tag!r:.80} {reason}; {_ADVICE}")
    return checked


def add_tags(tags: Iterable[str], metadata: bytes | None) -> bytes | None:
    """Return encoded metadata with the tags in it."""
    checked = check_tags(tags)
    if not checked:
        return metadata
    rest = b"}" if metadata is None else metadata.strip()[1:].lstrip()
    array = encode_json(checked).encode()
    return b'{"$tags":%b%b%b' % (array, b"" if rest.startswith(b"}") else b",", rest)


def refuse_name(metadata: bytes) -> None:
    """Raise InvalidEvent if encoded metadata has the name `$tags`, written in whatever way."""
    if _NAME in _decode_names(metadata.decode()):
        raise InvalidEvent("tags", "are $tags in the metadata; give them by themselves")


class TagMatcher:
    """Whether events have all of some tags.

    Args:
        tags: at least one.
    """

    __slots__ = ("_first", "_wanted")

    def __init__(self, tags: Iterable[str]) -> None:
        self._wanted = frozenset(tags)
        # One text, as it is written in the metadata: most events without the tag need no more than this.
        self._first = encode_json(max(self._wanted, key=len)).encode()

    def __call__(self, metadata: bytes | None) -> bool:
        """Return whether the metadata of an event has all tags."""
        if metadata is None or self._first not in metadata or not metadata.startswith(TAGS_BEGIN):
            return False
        return self._wanted.issubset(tags_of(metadata))
