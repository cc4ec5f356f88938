"""The fields of events, column by column, for `--fields`, csv and the columns of tables.

Values are cut out of the stored JSON unchanged: no number changes its digits. A missing field is null in
JSON and empty in a text. These are inner loops: a column costs one or two calls for each event, and one pass
over the data finds all paths into it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

from evlog.errors import InvalidArgument
from evlog.model.events import (
    BINARY_CODE,
    CONTENT_TYPES,
    JSON_CODE,
    OWN_BEGINS,
    REDACTED_BEGIN,
    TAGS_BEGIN,
    Event,
    split_tags,
)
from evlog.model.json_lines import encode_ids, encode_time, quote
from evlog.model.paths import pick_present, split_path

Columns = Sequence[Sequence[Any]]
"""The items of some events' records: all positions, all versions, and so on; see `model.events.Record`."""
Column = Iterable[bytes]

_POSITION, _VERSION, _STREAM, _TYPE, _ID, _TIME, _CODE, _DATA, _METADATA = range(9)
_KINDS: Final = [kind.encode() for kind in CONTENT_TYPES]
_quoted: Final = b'"%b"'.__mod__
_number: Final = b"%d".__mod__


def _names(texts: Sequence[str], make: Callable[[str], bytes]) -> Column:
    """Return each text made into bytes; names repeat, so each is made once."""
    made = {text: make(text) for text in set(texts)}
    return map(made.__getitem__, texts)


def _times(times_us: Sequence[int]) -> Column:
    made = {time_us: encode_time(time_us) for time_us in set(times_us)}
    return map(made.__getitem__, times_us)


def _categories(columns: Columns) -> list[str]:
    return [stream.partition("-")[0] for stream in columns[_STREAM]]


def _contents(columns: Columns) -> Column:
    if not any(columns[_CODE]):
        return columns[_DATA]
    return map(content, columns[_CODE], columns[_DATA])


def _metadata(columns: Columns) -> Column:
    return [
        split_tags(metadata)[1] if metadata and metadata.startswith(OWN_BEGINS) else metadata or b"{}"
        for metadata in columns[_METADATA]
    ]


def _tags(columns: Columns) -> Column:
    return [
        split_tags(metadata)[0] if metadata and metadata.startswith(TAGS_BEGIN) else b"null"
        for metadata in columns[_METADATA]
    ]


def _redacted(columns: Columns) -> Column:
    return [
        b"true" if metadata and metadata.startswith(REDACTED_BEGIN) else b"false"
        for metadata in columns[_METADATA]
    ]


# A field as a text and as JSON. Without a second function, the text is JSON, too.
_Whole = tuple[Callable[[Columns], Column], Callable[[Columns], Column] | None]


def _of_names(pick: Callable[[Columns], Sequence[str]]) -> _Whole:
    return lambda columns: _names(pick(columns), str.encode), lambda columns: _names(pick(columns), quote)


def _of_plain_texts(make: Callable[[Columns], Column]) -> _Whole:
    return make, lambda columns: map(_quoted, make(columns))


_WHOLE: Final[dict[str, _Whole]] = {
    "position": (lambda columns: map(_number, columns[_POSITION]), None),
    "stream": _of_names(itemgetter(_STREAM)),
    "category": _of_names(_categories),
    "version": (lambda columns: map(_number, columns[_VERSION]), None),
    "id": _of_plain_texts(lambda columns: encode_ids(columns[_ID])),
    "type": _of_names(itemgetter(_TYPE)),
    "time": _of_plain_texts(lambda columns: _times(columns[_TIME])),
    "content_type": _of_plain_texts(lambda columns: map(_KINDS.__getitem__, columns[_CODE])),
    "data": (
        lambda columns: [value if value[:1] == b"{" else as_text(value) for value in _contents(columns)],
        _contents,
    ),
    "metadata": (_metadata, None),
    "tags": (lambda columns: map(as_text, _tags(columns)), _tags),
    "redacted": (_redacted, None),
}
EVENT_FIELDS: Final = tuple(_WHOLE)


class Fields:
    """Some fields of events, by their names.

    Raises:
        InvalidArgument: one of them is not a field.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        paths: dict[int, list[tuple[str, ...]]] = {_DATA: [], _METADATA: []}
        self._places: list[tuple[int, int] | None] = []  # in which column and as what of its paths
        for name in names:
            if name in _WHOLE:
                self._places.append(None)
                continue
            at, path = _split_name(name)
            self._places.append((at, len(paths[at])))
            paths[at].append(path)
        self._picks = {at: (pick_present(found), len(found)) for at, found in paths.items() if found}

    def as_json(self, events: Sequence[Event]) -> list[Column]:
        """Return a column of JSON values for each field."""
        columns, picked = self._columns(events)
        made: list[Column] = []
        for name, place in zip(self.names, self._places, strict=True):
            if place is None:
                text, own = _WHOLE[name]
                made.append((own or text)(columns))
            else:
                made.append([b"null" if value is None else value for value in picked[place[0]][place[1]]])
        return made

    def as_text(self, events: Sequence[Event]) -> list[Column]:
        """Return a column of UTF-8 texts for each field."""
        columns, picked = self._columns(events)
        return [
            _WHOLE[name][0](columns)
            if place is None
            else [as_text(bytes(value)) if value else b"" for value in picked[place[0]][place[1]]]
            for name, place in zip(self.names, self._places, strict=True)
        ]

    def _columns(self, events: Sequence[Event]) -> tuple[Columns, dict[int, list[Sequence[bytes | None]]]]:
        """Return the events' columns, and the values at the paths into the data and the metadata."""
        columns = list(zip(*events, strict=True))
        picked: dict[int, list[Sequence[bytes | None]]] = {}
        for at, (pick, count) in self._picks.items():
            texts: Iterable[bytes] = columns[at] if at == _DATA else _metadata(columns)
            if at == _DATA and any(columns[_CODE]):
                texts = [
                    data if code == JSON_CODE else b"{}"
                    for code, data in zip(columns[_CODE], columns[_DATA], strict=True)
                ]
            picked[at] = list(zip(*map(pick, texts), strict=True)) if events else [()] * count
        return columns, picked


def parse_fields(text: str, known: Sequence[str] | None = None) -> list[str]:
    """Return the names in --fields, each checked.

    Args:
        text: names with commas between them.
        known: the fields there are; None: those of an event.

    Raises:
        InvalidArgument: one of them is not a field.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if known is None:
            Fields([name])
        elif name.partition(".")[0] not in known:
            raise InvalidArgument(f"unknown field {name!r}", f"use {', '.join(known)}")
    if len(set(names)) < len(names):
        raise InvalidArgument("--fields names a field twice", "name it once")
    return names


def _split_name(name: str) -> tuple[int, tuple[str, ...]]:
    first, dot, rest = name.partition(".")
    if not dot or first not in {"data", "metadata"} or rest.startswith("."):
        raise InvalidArgument(f"unknown field {name!r}", f"use {', '.join(_WHOLE)}, data.x or metadata.x")
    return _DATA if first == "data" else _METADATA, split_path(rest)


def as_text(value: bytes) -> bytes:
    """Return JSON as a text: a string's content, nothing for null, any other JSON as it is."""
    if value[:1] == b'"':
        if b"\\" not in value:
            return value[1:-1]
        text: str = json.loads(value)
        return text.encode(errors="backslashreplace")  # JSON can have half of a surrogate pair
    return b"" if value == b"null" else value


def content(code: int, data: bytes) -> bytes:
    """Return an event's data as JSON: binary data as base64."""
    if code == JSON_CODE:
        return data
    if code == BINARY_CODE:
        from binascii import b2a_base64

        return b'"%b"' % b2a_base64(data, newline=False)
    return quote(data.decode())
