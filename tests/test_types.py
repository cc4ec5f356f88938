"""The types of the public names: tools can resolve those of fields, and programs can import all of them."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import inspect
import json
import typing
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import pydantic
import pytest

import evlog
import evlog.aio
import evlog.engine
from evlog.model.json_lines import encode_lines

CLASSES = {
    name: found
    for module in (evlog, evlog.aio)
    for name in module.__all__
    if inspect.isclass(found := getattr(module, name))
}
FUNCTIONS = {name: found for name in evlog.__all__ if inspect.isfunction(found := getattr(evlog, name))}
KNOWN = {
    *(name for module in (builtins, typing, collections.abc) for name in dir(module)),
    *("UUID", "datetime", "timedelta", "TracebackType", "os"),  # from the standard library
    *(name for module in (evlog, evlog.aio, evlog.engine) for name in dir(module)),
    *("S", "_P", "_T"),  # type variables
    *("Apply", "Function", "Store", "Upcast", "ContentMatcher", "Item"),  # aliases, each of public types
    *("Workers", "EncodedEvent"),  # made by evlog, or for importers
}


@pytest.mark.parametrize("name", CLASSES)
def test_types_of_fields_can_be_resolved(name: str) -> None:
    hints = typing.get_type_hints(CLASSES[name])
    assert not any(isinstance(hint, str) for hint in hints.values())


def test_a_type_that_is_imported_late_is_the_one_that_type_checkers_see() -> None:
    info, report = map(typing.get_type_hints, (evlog.StoreInfo, evlog.VerifyReport))
    assert info["id"] is typing.get_type_hints(evlog.ParkedEvent)["id"] is UUID
    assert info["first_time"] == info["last_time"] == datetime | None
    assert report["redactions"] == tuple[evlog.Redaction, ...] | None
    assert typing.get_type_hints(evlog.Loss)["streams"] == collections.abc.Mapping[str, list[int]]
    assert typing.get_type_hints(evlog.Removal)["rule"] == dict[str, Any]


def test_reports_may_be_in_models_of_pydantic() -> None:
    for kind in (evlog.StoreInfo, evlog.VerifyReport, evlog.ParkedEvent, evlog.Loss, evlog.Removal):
        assert pydantic.TypeAdapter(kind).json_schema()


def test_events_may_be_in_models_of_pydantic(tmp_path: Path) -> None:
    class Handled(pydantic.BaseModel):
        event: evlog.Event

    with evlog.open(tmp_path / "store", create=True) as store:
        store.append("s", [evlog.NewEvent("T", {"n": 1}, tags=["a:b"], metadata={"m": 2}) for _ in range(2)])
        store.append("s", [evlog.NewEvent("T", "é\n", content_type="text")])
        store.append("s", [evlog.NewEvent("T", b"\xff", content_type="binary")])
        store.redact(2, reason="asked")
        events = list(store.read("s"))
    for event, line in zip(events, b"".join(encode_lines(events)).splitlines(), strict=True):
        handled = Handled(event=event)
        assert handled.event is event
        assert handled.model_dump()["event"]["id"] == event.id
        shown = json.loads(line)
        assert json.loads(handled.model_dump_json()) == {"event": shown | {"time": mock.ANY}}
    assert Handled.model_json_schema(mode="serialization")["properties"]["event"]["type"] == "object"
    with pytest.raises(pydantic.ValidationError, match="instance of Event"):
        Handled(event=tuple(event))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_each_type_that_a_public_signature_names_can_be_imported(name: str) -> None:
    assert {*_names(CLASSES.get(name) or FUNCTIONS[name])} <= KNOWN


def _names(public: Any) -> Iterator[str]:
    annotated = [public]
    if inspect.isclass(public):
        for attribute, member in inspect.getmembers_static(public):
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if not attribute.startswith("_") and inspect.isfunction(function):
                annotated.append(function)
    for each in annotated:
        for annotation in inspect.get_annotations(each).values():
            for node in ast.walk(ast.parse(annotation, mode="eval")):
                if isinstance(node, ast.Name):
                    yield node.id
