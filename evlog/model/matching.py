"""Selecting events by content: fields of the metadata, and patterns in the data or metadata. Pure.

1. A field of the metadata matches a text if it is that string, or if that text is how its JSON is written
   (3, true).
2. A pattern is searched in the data and in the metadata with the tags, as they are stored.
3. Bytes are searched first; JSON is parsed only where the search cannot decide. The same search in the bytes
   of many records at once can rule out all of them.

Imported only where content is asked for.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument, InvalidEvent
from evlog.model.arguments import list_of
from evlog.model.json_text import encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Final

    from evlog.model.events import Record

    Fields = tuple[tuple[str, str | None], ...]
    """Names of fields, and what each must be; None: anything."""

_SPECIAL: Final = frozenset("\\.^$*+?{}[]|()")
# An escaped or plain character; then a class, a set, a repetition, any character, an anchor.
_SIMPLE: Final = (
    r"\\([^\w\s])|([^\\[(){|.^$*+?]|\{(?!\d*,?\d*\}))"
    r"|\\[dDwWsSbBAZ]|\[\^?\]?[^]\\[]*\]|\{\d*,?\d*\}|[.^$*+?]"
)
_ESCAPED: Final = frozenset('"\\/')


def check_fields(fields: Mapping[str, object]) -> Fields:
    """Return what a user asks of the metadata, sorted, or raise InvalidArgument."""
    if not hasattr(fields, "items"):
        raise InvalidArgument(f"metadata cannot be {fields!r:.80}; give a dict of fields")
    return tuple(sorted((_checked_name(name), field_text(value)) for name, value in fields.items()))


def field_text(value: object) -> str:
    """Return a value as a field's text: strings and UUIDs as they are, other values as JSON."""
    if isinstance(value, str) or value.__class__.__name__ == "UUID":
        text = value if isinstance(value, str) else str(value)
    else:
        from evlog.model.encoding import dump_json

        try:
            text = dump_json(value, "metadata").decode()
        except InvalidEvent:
            raise InvalidArgument(
                f"metadata cannot be {value!r:.80}; give a text, a number or a bool"
            ) from None
    return _checked_text(text, "metadata")


def check_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Return the patterns, sorted, each once, or raise InvalidArgument."""
    given = [patterns] if isinstance(patterns, str) else list_of("grep", patterns)
    checked = sorted({_checked_text(pattern, "grep") for pattern in given})
    for pattern in checked:
        if not pattern:
            raise InvalidArgument("the pattern to find is empty; give a text or a regular expression")
        if not _is_plain(pattern):
            _compiled(pattern)
    return tuple(checked)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"invalid field of the metadata {name!r:.80}; give its name")
    return _checked_text(name, "metadata")


def _checked_text(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise InvalidArgument(f"{what} cannot be {text!r:.80}; give a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} {text!r:.80} is not valid Unicode; give valid text") from None
    return text


def pattern_of_text(text: str) -> str:
    """Return a pattern that finds just this text, in time that grows with the data alone."""
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in text)


def _is_plain(pattern: str) -> bool:
    return _SPECIAL.isdisjoint(pattern)


def needed_text(pattern: str) -> str:
    """Return the longest text that is in all that a pattern matches, as far as that is easily seen.

    A search for it in the bytes of many events excludes most of them, ten times as fast as the pattern.
    """
    if _is_plain(pattern):
        return pattern
    if not pattern.isascii():
        return ""
    import re

    found, run, at = "", "", 0
    for token in re.finditer(_SIMPLE, pattern):
        if token.start() != at:
            return ""  # a group, a branch, or something rarer
        at = token.end()
        if token.lastindex:
            run += token[token.lastindex]
            continue
        if token[0][0] in "*?{":
            run = run[:-1]  # what is before it may be missing
        found, run = max(found, run, key=len), ""
    return max(found, run, key=len) if at == len(pattern) else ""


def _compiled(pattern: str) -> Callable[[str], object]:
    import re

    try:
        return re.compile(pattern).search
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidArgument(
            f"invalid pattern {pattern!r:.80}: {error}; use a regular expression as Python's re has it"
        ) from None


class ContentMatcher:
    """A check whether a record has the content that is asked for.

    Args:
        fields: of the metadata, as `check_fields` returns them.
        patterns: as `check_patterns` returns them.
    """

    def __init__(self, fields: Fields, patterns: Sequence[str]) -> None:
        self._fields = [(name, None if text is None else text.encode(), text) for name, text in fields]
        self.needles = [needle for name, text in fields for needle in _needles(name, text)]
        """For each field: bytes that metadata must contain, and the escape with which JSON may write them."""
        # The most selective ones: a field's value, or its name if any value matches.
        self._values = [_needles(name, text)[-1] for name, text in fields]
        self.literals = [text.encode() for pattern in patterns if (text := needed_text(pattern))]
        self._searches = [_compiled(pattern) for pattern in patterns if not _is_plain(pattern)]

    def __call__(self, record: Record) -> bool:
        """Return whether a record matches."""
        data, metadata = record[7], record[8]
        if self.needles and (metadata is None or not self._has_fields(metadata)):
            return False
        for literal in self.literals:
            if literal not in data and (metadata is None or literal not in metadata):
                return False
        if self._searches:
            text = data.decode("utf-8", "replace")
            more = metadata.decode("utf-8", "replace") if metadata else ""
            for search in self._searches:
                if not (data and search(text)) and not (more and search(more)):
                    return False
        return True

    def may_be_in(self, raw: bytes) -> bool:
        """Return whether bytes that hold whole records can hold one that matches."""
        return all(needle in raw or escape in raw for needle, escape in self._values) and all(
            literal in raw for literal in self.literals
        )

    def _has_fields(self, metadata: bytes) -> bool:
        for needle, escape in self.needles:
            if needle not in metadata and escape not in metadata:
                return False
        found = _parse(metadata)
        for name, raw, text in self._fields:
            value = found.get(name)
            if value is None:
                return False
            if raw is not None and value != raw and (value[:1] != b'"' or _parse_text(value) != text):
                return False
        return True


def _needles(name: str, text: str | None) -> list[tuple[bytes, bytes]]:
    parts = [encode_json(name)] if text is None else [encode_json(name), text]
    return [
        # JSON can write any character as \uXXXX, and some in shorter ways, too.
        (part.encode(), b"\\u" if part.isprintable() and _ESCAPED.isdisjoint(part.strip('"')) else b"\\")
        for part in parts
    ]


def _parse(metadata: bytes) -> dict[str, bytes]:
    """Return the raw fields of metadata; none if it is not a JSON object."""
    import msgspec

    global _decode
    if _decode is None:
        _decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    try:
        return {name: bytes(raw) for name, raw in _decode(metadata).items()}
    except (ValueError, RecursionError):
        return {}


def _parse_text(value: bytes) -> str:
    import msgspec

    try:
        text: str = msgspec.json.decode(value, type=str)
    except ValueError:
        return ""
    return text


_decode: Any = None  # set twice to the same by two threads: harmless
