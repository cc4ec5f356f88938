"""The schemas of a store: events in the stream `$schemas`, and what a process remembers of them.

    {"type":"OrderPaid","schema":{…}}     the schema of a type from here on
    {"type":"OrderPaid"}                  from here on the type has none

1. A store remembers the version of `$schemas` that it has read, 0 at first. Each append says against which
   version its events were checked. The engine, under its lock, refuses the append if `$schemas` is at another
   version. So an append that begins after a schema was set is checked against it, in every process. A store
   without schemas pays only for the comparison of two numbers.
2. An append looks up the schemas of its own event types only.
3. Duplicates are found first: an event that is known already is not written, so it is not checked.
"""

from __future__ import annotations

from operator import itemgetter

from evlog.errors import (
    CorruptionError,
    InvalidEvent,
    InvalidSchema,
    SchemaNotFound,
    SchemaViolation,
    WrongExpectedVersion,
)
from evlog.model.appends import AppendRequest, Expectation, damaged_schema
from evlog.model.arguments import check_texts
from evlog.model.encoding import encode_events
from evlog.model.events import JSON_CODE, NewEvent, check_type
from evlog.model.filters import StreamSelection
from evlog.model.json_lines import quote
from evlog.model.json_text import decode_json
from evlog.model.retention import SCHEMA_TYPE, SCHEMAS_STREAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any, Final

    from evlog.engine import Engine
    from evlog.model.events import EncodedEvent, Event
    from evlog.schemas.validation import Validate

_type_of: Final = itemgetter(0)


class Schema:
    """One version of the JSON Schema of an event type.

    Attributes:
        type: the event type.
        version: 1 for the first schema that the type had.
        text: the schema, JSON as it was given.
    """

    def __init__(self, type: str, version: int, text: bytes, event: Event) -> None:
        self.type = type
        self.version = version
        self.text = text
        self._event = event
        self._validate: Validate | None = None  # compiled twice by two threads: harmless

    @property
    def schema(self) -> Any:
        """The schema, parsed at each use."""
        import json

        return json.loads(self.text)

    @property
    def position(self) -> int:
        """Where in the log it was set."""
        return self._event.position

    @property
    def time_us(self) -> int:
        """When it was set: UTC, µs since 1970."""
        return self._event.time_us

    @property
    def time(self) -> datetime:
        """When it was set."""
        return self._event.time

    @property
    def event(self) -> EncodedEvent:
        """The store's own event that holds it, as it was appended."""
        event: EncodedEvent = self._event[3:5] + self._event[6:]
        return event

    def maybe_fault(self, event: EncodedEvent) -> tuple[str, str] | None:
        """Return the place in an event's data and what is wrong there; None if it fits.

        Raises:
            ExtraNotInstalled: jsonschema-rs is missing.
        """
        if event[2] != JSON_CODE:
            return "", "it is not JSON"
        if self._validate is None:
            from evlog.schemas.validation import compile_schema

            self._validate = compile_schema(self.type, self.text)
        return self._validate(event[3])

    def __repr__(self) -> str:
        return f"Schema({self.type!r}, version={self.version})"


class Schemas:
    """All schemas at a version of `$schemas`. Immutable.

    Attributes:
        version: of `$schemas`.
        current: the schema of each type that has one.
        all: every version of each type's schema, in order.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.version = events[-1].version if events else 0
        self.current: dict[str, Schema] = {}
        self.all: dict[str, list[Schema]] = {}
        for event in events:
            type, text = _decode(event)
            if text is None:
                self.current.pop(type, None)
                continue
            versions = self.all.setdefault(type, [])
            self.current[type] = Schema(type, len(versions) + 1, text, event)
            versions.append(self.current[type])

    def check(self, engine: Engine, events: Sequence[EncodedEvent]) -> None:
        """Raise SchemaViolation for the first event that would be written and does not fit.

        Raises:
            ExtraNotInstalled: a type has a schema, and jsonschema-rs is missing.
        """
        if self.current.keys().isdisjoint(map(_type_of, events)):
            return
        for index, event in enumerate(events):
            schema = self.current.get(event[0])
            if schema is None or (fault := schema.maybe_fault(event)) is None:
                continue
            if event[1] is None or not engine.find_ids([event[1]]):
                raise SchemaViolation(schema.type, schema.version, *fault, index)


def load(engine: Engine) -> Schemas:
    """Return the schemas as they are now."""
    return Schemas(list(engine.read_stream(StreamSelection(SCHEMAS_STREAM))))


def maybe_newer(engine: Engine, known: Schemas | None) -> Schemas | None:
    """Return the schemas as they are now; None if those are what is known."""
    try:
        found = load(engine)
    except CorruptionError as error:
        raise damaged_schema(error) from None
    return None if known is not None and found.version == known.version else found


def find(engine: Engine, type: str, version: int | None) -> Schema:
    """Return the schema of a type, or an earlier version of it.

    Raises:
        SchemaNotFound: there is none.
    """
    check_texts(type=type)
    schemas = load(engine)
    if version is None:
        if type in schemas.current:
            return schemas.current[type]
    elif 0 < version <= len(schemas.all.get(type, ())):
        return schemas.all[type][version - 1]
    raise SchemaNotFound(type, version)


def set_schema(engine: Engine, type: str, schema: Any) -> Schema:
    """Set the schema of a type; durable when this returns, also if it is the present one.

    Raises:
        InvalidSchema: it is not a JSON Schema.
        ExtraNotInstalled: jsonschema-rs is missing.
    """
    from evlog.schemas.validation import compile_schema

    check_type(type)
    data = schema.encode("utf-8", "surrogatepass") if isinstance(schema, str) else schema
    try:
        text = encode_events([NewEvent("schema", data)])[0][3] if data is not None else b""
    except InvalidEvent as error:
        raise InvalidSchema(type, "", error.reason) from None
    if not text:
        raise InvalidSchema(type, "", "there is none")
    compile_schema(type, text)
    content = b'{"type":%b,"schema":%b}' % (quote(type), text)
    while True:
        schemas = load(engine)
        present = schemas.current.get(type)
        if present is not None and present.text == text:
            # Appended again as a duplicate: the process that set it may have died before it was durable.
            engine.append(AppendRequest.own(SCHEMAS_STREAM, present.event))
            return present
        if _try_to_append(engine, content, schemas.version):
            return find(engine, type, len(schemas.all.get(type, ())) + 1)


def remove_schema(engine: Engine, type: str) -> None:
    """Remove the schema of a type; its versions are kept. Durable when this returns.

    Raises:
        SchemaNotFound: the type has none.
    """
    check_texts(type=type)
    while True:
        schemas = load(engine)
        if type not in schemas.current:
            raise SchemaNotFound(type)
        if _try_to_append(engine, b'{"type":%b}' % quote(type), schemas.version):
            return


def _try_to_append(engine: Engine, content: bytes, version: int) -> bool:
    """Append to `$schemas` if it is at this version; return whether it is."""
    event: EncodedEvent = (SCHEMA_TYPE, None, JSON_CODE, content, None)
    here = Expectation(0, SCHEMAS_STREAM, version)
    try:
        engine.append(AppendRequest.own(SCHEMAS_STREAM, event, [here]))
    except WrongExpectedVersion:
        return False
    return True


def _decode(event: Event) -> tuple[str, bytes | None]:
    """Return the type and its schema's text; None where the schema was removed."""
    try:
        fields = decode_json(event.data.decode())
    except (ValueError, RecursionError):
        fields = None
    type = fields.get("type") if isinstance(fields, dict) else None
    if isinstance(type, str):
        if "schema" not in fields:
            return type, None
        begin = b'{"type":%b,"schema":' % quote(type)
        if event.data.startswith(begin):
            return type, event.data[len(begin) : -1]
    detail = "it is in the stream of schemas, and holds none"
    raise CorruptionError(f"event {event.position}", None, detail, event.position)
