"""Queries: their text, what they select, and the values of conditions."""

from __future__ import annotations

import pickle
from operator import or_
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog import IfNone, IfVersion, InvalidArgument, Query
from evlog.model.appends import split_conditions
from evlog.model.tags import add_tags

letters = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
likely = st.sampled_from(["A", "course:c1", 'a"b', ",", ";", "|", "=", " a", "*", "type=A", "\\"])
names = st.text(letters, min_size=1, max_size=8) | likely
one_item = st.builds(Query, st.lists(names, max_size=3), st.lists(names, max_size=3))
queries = one_item | st.builds(or_, one_item, one_item)


@given(queries)
def test_a_query_is_read_back_from_its_text(query: Query) -> None:
    assert Query.parse(str(query)) == query
    assert pickle.loads(pickle.dumps(query)) == query
    assert eval(repr(query)) == query


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("type=A", [(("A",), ())]),
        ("type=B|A,tag=y,tag=x", [(("A", "B"), ("x", "y"))]),
        ("type=A,type=B", [(("A", "B"), ())]),
        (" tag = x , type = A ; tag=y ", [(("A",), ("x",)), ((), ("y",))]),
        ('tag="a,b|c;d",type="e\\u0041"|F', [(("F", "eA"), ("a,b|c;d",))]),
        ("tag=a=b", [((), ("a=b",))]),
        ("*", [((), ())]),
        ("tag=x;*", [((), ("x",)), ((), ())]),
        ("tag=x;tag=x", [((), ("x",))]),
    ],
)
def test_the_text_of_a_query(text: str, items: Any) -> None:
    assert list(Query.parse(text).items) == items


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            ",",
            ";",
            "type",
            "type=",
            "tag=",
            "types=A",
            "tag=a|b",
            "tag=a,",
            "tag=a;",
            "**",
            "*,tag=a",
        ),
        *('tag="a', 'tag="a"b', 'tag="a" ,tag=b', "tag=a\nb", "type=A|", f"tag={'x' * 256}", 'tag=""'),
    ],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Query.parse(text)


@given(queries, st.lists(names, max_size=3), names)
def test_a_query_selects_by_one_type_and_all_tags(query: Query, tags: list[str], type: str) -> None:
    expected = any(
        (not types or type in types) and set(wanted).issubset(tags) for types, wanted in query.items
    )
    assert query.selects(type, add_tags(tags, b'{"a":1}')) == expected


def test_conditions_are_checked_when_they_are_made() -> None:
    for after in (-1, True, "1", None):
        with pytest.raises(InvalidArgument):
            IfNone("*", after)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        IfNone(7)  # type: ignore[arg-type]
    for stream, version in (("", 1), ("$x", 1), ("a", -1), ("a", "some")):
        with pytest.raises(InvalidArgument):
            IfVersion(stream, version)
    for wrong in ("tag=a", [("a", 1)], [IfNone("*"), None], 7):
        with pytest.raises((InvalidArgument, TypeError)):
            split_conditions(wrong)  # type: ignore[arg-type]
    first, second = IfNone("tag=a", 3), IfVersion("s", 0)
    assert split_conditions(first) == ([], [first])
    assert split_conditions([first, second]) == ([second], [first])
    assert first == IfNone(Query(tags=["a"]), 3) != IfNone("tag=a")
    assert second == IfVersion("s", 0) != IfVersion("s", 1)
    with pytest.raises(InvalidArgument):
        Query(types="A")
    with pytest.raises(AttributeError):
        Query().items = ()
