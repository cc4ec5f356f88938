"""The types of the public names: tools can resolve those of fields, and programs can import all of them."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import inspect
import typing
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pydantic
import pytest

import evlog
import evlog.aio
import evlog.engine

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
