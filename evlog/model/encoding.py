"""From `NewEvent` to what a record holds of it. Errors in an event are found here, before a lock is taken.

Data and metadata are JSON text, UTF-8 text or bytes. JSON is checked, not rewritten, except that line breaks
between tokens become spaces: so one event is one line of output.
"""

from __future__ import annotations

import sys
from operator import attrgetter, itemgetter

from evlog.errors import EventTooLarge, InvalidEvent
from evlog.model.events import (
    CONTENT_TYPES,
    JSON_CODE,
    MAX_EVENT_BYTES,
    TEXT_CODE,
    EncodedEvents,
    NewEvent,
    check_type,
)
from evlog.model.json_text import encode_json, make_decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final
    from uuid import UUID

    from evlog.model.events import EncodedEvent

_CONTENT_CODES: Final = {name: code for code, name in enumerate(CONTENT_TYPES)}
_type_of: Final = itemgetter(0)  # of an encoded event
_FIELDS: Final = tuple(map(attrgetter, ("type", "id", "data", "metadata", "tags", "content_type")))
_LINE_BREAKS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")
_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"0" * 9)
_SCALARS: Final = frozenset((str, int, float, bool, None.__class__))
_MAX_CHECKED_TYPES: Final = 1 << 14
_BULK_EVENTS: Final = 16  # from this many events on, passes by column cost less than a loop
# From this many JSON payloads on, msgspec's import (tens of milliseconds) pays for itself.
_BULK_JSON: Final = 64
_SINGLES_BEFORE_BULK: Final = 2000

_checked_types: set[str] = set()  # names that passed the check: a program has few types


def encode_events(events: Sequence[NewEvent]) -> Sequence[EncodedEvent]:
    """Check events and return what a record holds of each.

    Raises:
        InvalidEvent, EventTooLarge: the first event that cannot be stored.
    """
    if len(events) >= _BULK_EVENTS and set(map(type, events)) == {NewEvent}:
        # A list for each field, not a tuple for each event, which the garbage collector would look at.
        columns = maybe_encode_columns(*([*map(field, events)] for field in _FIELDS))
        if columns is not None:
            return columns
    encoded, unchecked = _encode_each(events)
    _check_types([*map(_type_of, encoded)])
    if unchecked and check_json(unchecked):
        # Valid JSON has no raw line break inside a string: all of them are between tokens.
        encoded = [
            (type, id, code, data if code != JSON_CODE else data.translate(_LINE_BREAKS_TO_SPACES), metadata)
            for type, id, code, data, metadata in encoded
        ]
    return encoded


def maybe_encode_columns(
    types: Sequence[Any],
    ids: Sequence[Any],
    datas: Sequence[Any],
    metadatas: Sequence[Any],
    tags: Sequence[Any],
    content_types: Sequence[Any],
) -> EncodedEvents | None:
    """Check and encode a bulk load by columns, in C.

    Returns:
        None if an event has metadata or tags, is not JSON in bytes, or has an id that is not 16 bytes.

    Raises:
        InvalidEvent: the first event that cannot be stored.
    """
    count = len(datas)
    if (
        [*map(type, datas)].count(bytes) != count
        or not _are_none(metadatas)
        or not _are_none(tags)
        or content_types.count("json") != count
        or not (_are_ids(ids) or _are_none(ids))
        or max(map(len, datas)) > MAX_EVENT_BYTES
    ):
        return None
    _check_types(types)
    if check_json(datas):
        datas = [data.translate(_LINE_BREAKS_TO_SPACES) for data in datas]
    return EncodedEvents(types, ids, [JSON_CODE] * count, datas, metadatas)


def _are_none(values: Sequence[Any]) -> bool:
    """Return whether each is None."""
    try:
        return values.count(None) == len(values)
    except (ValueError, TypeError):  # a comparison with an array of numpy, or pandas's NA, is not a bool
        return False


def _are_ids(ids: Sequence[Any]) -> bool:
    """Return whether each is 16 bytes."""
    count = len(ids)
    # To count items of a list takes half the time of making a set of them.
    return [*map(type, ids)].count(bytes) == count == [*map(len, ids)].count(16)


def _check_types(types: Sequence[Any]) -> None:
    """Raise InvalidEvent if there is a type among these that no event can have."""
    try:
        if _checked_types.issuperset(types):
            return  # the common case
        types = [*set(types) - _checked_types]
    except TypeError:  # one cannot be hashed, so it is not a text
        pass
    for type in types:
        if len(_checked_types) >= _MAX_CHECKED_TYPES:
            _checked_types.clear()
        _checked_types.add(check_type(type))


def _encode_each(events: Sequence[NewEvent]) -> tuple[list[EncodedEvent], Sequence[bytes]]:
    """Encode any events; return them, and the JSON payloads (given as bytes) that the caller has to check."""
    encoded: list[EncodedEvent] = []
    unchecked: list[bytes] = []
    for event in events:
        if event.__class__ is not NewEvent and not isinstance(event, NewEvent):
            kind = event.__class__.__name__
            raise InvalidEvent(
                "", f"expected a NewEvent, not an object of type {kind}; give NewEvent(type, data)"
            )
        data = event.data
        code = JSON_CODE
        if data.__class__ is bytes and event.content_type == "json":
            unchecked.append(data)
        else:
            code, data = _encode_data(event.content_type, data)
        id = event.id
        if id is not None:
            if id.__class__.__name__ == "UUID":  # by its name: a program without UUIDs does not import it
                id = id.int.to_bytes(16)  # type: ignore[union-attr]
            elif id.__class__ is not bytes or len(id) != 16:
                id = encode_id(id)
        metadata = event.metadata
        if metadata is not None:
            metadata = _encode_metadata(metadata)
        if event.tags is not None:
            metadata = with_tags(event.tags, metadata)
        if len(data) > MAX_EVENT_BYTES or (metadata and len(data) + len(metadata) > MAX_EVENT_BYTES):
            raise EventTooLarge(len(data) + len(metadata or b""), MAX_EVENT_BYTES)
        encoded.append((event.type, id, code, data, metadata))
    return encoded, unchecked


def _encode_data(content_type: str, data: Any) -> tuple[int, bytes]:
    """Return the code of the content type, and the payload's bytes."""
    code = _CONTENT_CODES.get(content_type)
    if code is None:
        raise InvalidEvent("content type", f"{content_type!r} is unknown; use {', '.join(CONTENT_TYPES)}")
    if isinstance(data, bytearray | memoryview):
        data = bytes(data)
    if code == JSON_CODE:
        if isinstance(data, bytes):
            check_json([data])
            return code, data.translate(_LINE_BREAKS_TO_SPACES)
        return code, dump_json({} if data is None else data, "data")
    if data is None:
        return code, b""
    if code == TEXT_CODE:
        return code, encode_text(data)
    if isinstance(data, bytes):
        return code, data
    raise InvalidEvent("data", f"of content type binary must be bytes, not {data.__class__.__name__}")


def encode_text(data: Any) -> bytes:
    """Return a text as UTF-8, or raise InvalidEvent."""
    try:
        if isinstance(data, str):
            return data.encode()
        if isinstance(data, bytes):
            data.decode()
            return data
    except UnicodeEncodeError:
        raise InvalidEvent("data", "is not valid Unicode (a lone surrogate)") from None
    except UnicodeDecodeError as error:
        raise InvalidEvent("data", f"is not UTF-8 text at byte {error.start}; use binary") from None
    raise InvalidEvent("data", f"of content type text must be str or bytes, not {data.__class__.__name__}")


def _encode_metadata(metadata: dict[str, Any] | bytes) -> bytes | None:
    if isinstance(metadata, bytes):
        check_json([metadata], "metadata")
        if not metadata.lstrip().startswith(b"{"):
            raise InvalidEvent("metadata", "must be a JSON object")
        return without_tags(metadata.translate(_LINE_BREAKS_TO_SPACES))
    if not isinstance(metadata, dict):
        raise InvalidEvent("metadata", "must be a JSON object (a dict)")
    return without_tags(dump_json(metadata, "metadata")) if metadata else None


def without_tags(metadata: bytes) -> bytes:
    """Return metadata that a user wrote, or raise InvalidEvent if it has `$tags` or `$redacted`."""
    if b"$tags" in metadata or b"$redacted" in metadata or b"\\u" in metadata:
        from evlog.model.tags import refuse_names

        refuse_names(metadata)
    return metadata


def with_tags(tags: Iterable[str], metadata: bytes | None) -> bytes | None:
    """Return encoded metadata with the tags in it."""
    global _add_tags
    if _add_tags is None:  # an import statement for each event would take 1 µs
        from evlog.model.tags import add_tags

        _add_tags = add_tags
    return _add_tags(tags, metadata)


_add_tags: Callable[[Iterable[str], bytes | None], bytes | None] | None = None


def encode_id(id: UUID | str | bytes) -> bytes:
    """Return the 16 bytes of an id, or raise InvalidEvent."""
    raw = id if isinstance(id, bytes) else getattr(id, "bytes", None)
    if raw is None:
        from uuid import UUID

        try:
            raw = UUID(id).bytes  # type: ignore[arg-type]
        except (ValueError, AttributeError, TypeError):
            raise InvalidEvent("id", f"{id!r} is not a UUID; an idempotency key can be any text") from None
    if not isinstance(raw, bytes) or len(raw) != 16:
        raise InvalidEvent("id", "must be a UUID of 16 bytes")
    return raw


def dump_json(value: Any, field: str) -> bytes:
    """Encode a Python object as compact strict JSON, or raise InvalidEvent."""
    try:
        encoded = encode_json(value).encode()
    except UnicodeEncodeError:
        raise InvalidEvent(field, "is not JSON: a lone surrogate in a string") from None
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error).replace("keys must be str, int, float, bool or None", "keys must be str")
        raise InvalidEvent(field, f"is not JSON: {reason}") from None
    # A key that is not a text becomes one that ends with a digit, or a constant's name. To look for these in
    # the bytes takes 1 µs for a dozen keys; to look at each value, 2.5 µs.
    if (
        b'0":' in encoded.translate(_DIGITS_TO_ZERO)
        or b'"null":' in encoded
        or b'"true":' in encoded
        or b'"false":' in encoded
    ):
        _check_keys(value, field)
    return encoded


def _check_keys(value: Any, field: str) -> None:
    """Refuse keys that are not texts: the encoder makes texts of numbers, and they would not come back."""
    pending = [value]
    for each in pending:  # grows meanwhile
        if isinstance(each, dict):
            try:
                "".join(each)  # what checks the type of all keys in C
            except TypeError:
                key = next(key for key in each if not isinstance(key, str))
                found = f"{key.__class__.__name__} ({key!r:.80})"
                raise InvalidEvent(field, f"is not JSON: keys must be str, not {found}") from None
            each = each.values()
        elif not isinstance(each, list | tuple):
            continue
        pending += [item for item in each if item.__class__ not in _SCALARS]


def check_json(payloads: Sequence[bytes], field: str = "data") -> bool:
    """Check that each payload is strict JSON in UTF-8: RFC 8259, no NaN, no lone surrogates.

    Returns:
        Whether any of them has a line break.

    Raises:
        InvalidEvent: the first that is not.
    """
    if len(payloads) == 1:
        global _singles
        payload = payloads[0]
        check: Callable[[bytes], object] = _check_json_one  # after many payloads msgspec's import pays
        if _singles >= _SINGLES_BEFORE_BULK or "msgspec" in sys.modules:
            check = _bulk_checker()
        _singles += 1
        try:
            payload.decode()
            check(payload)
        except (ValueError, RecursionError):
            _explain_json(payload, check, field)
        return b"\n" in payload or b"\r" in payload
    from collections import deque

    bulk = len(payloads) >= _BULK_JSON or "msgspec" in sys.modules
    check = _bulk_checker() if bulk else _check_json_one
    try:
        # msgspec takes the strings that it skips unread, so UTF-8 is checked here; a character cannot
        # be put together from two payloads across the space.
        joined = b" ".join(payloads)
        if not joined.isascii():
            joined.decode()
        deque(map(check, payloads), maxlen=0)
    except (ValueError, RecursionError):
        for payload in payloads:
            _explain_json(payload, check, field)
        raise AssertionError("a payload failed together with the others and not alone") from None
    return b"\n" in joined or b"\r" in joined


def _explain_json(payload: bytes, check: Callable[[bytes], object], field: str) -> None:
    """Raise the InvalidEvent that says what is wrong with this payload, if anything is."""
    try:
        payload.decode()
        check(payload)
    except UnicodeDecodeError as error:
        raise InvalidEvent(field, f"is not JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InvalidEvent(field, "is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise InvalidEvent(field, f"is not JSON: {error}") from None


def _check_json_one(payload: bytes) -> None:
    value = _strict_decode(payload.decode())  # a str: bytes would be taken as UTF-16, too
    if b"\\u" in payload:
        import json

        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate in a string") from None


# Numbers stay text: of any size they are JSON, and Python refuses to convert the longest.
_strict_decode: Final = make_decoder(str)


_singles = 0  # payloads that were checked alone; a guess is enough: threads count without a lock


def _bulk_checker() -> Callable[[bytes], object]:
    global _decode_raw
    if _decode_raw is None:
        import msgspec

        _decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
    return _decode_raw


_decode_raw: Callable[[bytes], object] | None = None  # set twice to the same by two threads: harmless
