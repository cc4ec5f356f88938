"""Tags in metadata, in JSON lines, and in filters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evlog import CorruptionError, Event, EventFilter, InvalidArgument, InvalidEvent, NewEvent
from evlog.model.encoding import encode_events
from evlog.model.events import split_tags, tags_of
from evlog.model.filters import make_filter
from evlog.model.json_lines import encode_lines, own_decoder
from evlog.model.tags import MAX_TAGS, tag_matcher

texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)
tag_lists = st.lists(
    st.one_of(
        texts, st.sampled_from(['"', "\\", ']},"', "a", "course:c1", ",", "]", "],", ',"', "]}", "x]"])
    ),
    max_size=5,
)
metadatas = st.none() | st.dictionaries(st.sampled_from(["a", "b", "$tag", "é"]), st.integers(), max_size=3)


def encoded(event: NewEvent) -> Event:
    type, id, code, data, metadata = encode_events([event])[0]
    return Event((1, 1, "s", type, id or bytes(16), 0, code, data, metadata))


@given(tag_lists, metadatas)
@example(["a", "b", "a"], {"x": 1})
def test_tags_and_metadata_come_back_apart(tags: list[str], metadata: Any) -> None:
    for given_metadata in (metadata, None if metadata is None else json.dumps(metadata, indent=1).encode()):
        event = encoded(NewEvent("T", metadata=given_metadata, tags=tags))
        assert event.tags == tuple(dict.fromkeys(tags))
        assert event.metadata == (metadata or {})
        assert json.loads(event.metadata_bytes) == (metadata or {})


@given(tag_lists, metadatas)
def test_a_line_goes_back_in_as_it_came_out(tags: list[str], metadata: Any) -> None:
    event = encoded(NewEvent("T", metadata=metadata, tags=tags))
    line = b"".join(encode_lines([event]))
    fields = json.loads(line)
    assert fields["metadata"] == (metadata or {})
    assert fields.get("tags", []) == list(event.tags)
    assert ("tags" in fields) == bool(tags)
    assert own_decoder()(line.rstrip(b"\n"))[1][4] == event[8]


likely = ["a", "course:c1", '"', "b", ",", "]", '"]', ',"', "]x", "x,", "\\", 'a"]}', "é"]


@given(
    st.lists(st.sampled_from(likely), max_size=5),
    st.lists(st.sampled_from(likely), min_size=1, max_size=3),
)
@example(["]x", "a"], ["a"])
@example(["x,", "a"], ["a"])
@example([], ["a"])
def test_a_matcher_wants_every_tag(tags: list[str], wanted: list[str]) -> None:
    event = encoded(NewEvent("T", metadata={"course:c1": ["a", "b", "é"]}, tags=tags))
    assert tag_matcher(wanted)(event) == set(wanted).issubset(tags)
    assert not tag_matcher(wanted)(Event((*event[:8], None)))


@pytest.mark.parametrize("tag", ["", "a\nb", "x" * 256, 7, "\udc00", "a\x7f"])
def test_a_tag_is_short_printable_text(tag: Any) -> None:
    with pytest.raises(InvalidEvent) as caught:
        encode_events([NewEvent("T", tags=[tag])])
    assert caught.value.field == "tag"
    with pytest.raises(InvalidArgument):
        make_filter(None, None, None, tags=[tag])


def test_tags_are_a_list_of_limited_length() -> None:
    for wrong in ("course:c1", [str(number) for number in range(MAX_TAGS + 1)]):
        with pytest.raises(InvalidArgument):
            encode_events([NewEvent("T", tags=wrong)])
    assert len(encoded(NewEvent("T", tags=[str(number % 64) for number in range(100)])).tags) == MAX_TAGS
    with pytest.raises(InvalidArgument):
        make_filter(None, None, None, tags="a")


@pytest.mark.parametrize(
    "metadata", [{"$tags": ["a"]}, b'{"$tags":["a"]}', b'{"n":1e400,"\\u0024tag\\u0073":1}', {"$tags": None}]
)
def test_tags_in_the_metadata_are_refused(metadata: Any) -> None:
    with pytest.raises(InvalidEvent):
        encode_events([NewEvent("T", metadata=metadata)])
    raw = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    with pytest.raises(InvalidEvent):
        own_decoder("s")(b'{"type":"T","metadata":%b}' % raw)


def test_other_names_and_values_like_it_are_not() -> None:
    metadata = b'{"a":"$tags","b":{"$tags":1},"\\u0061\\u0062":1}'
    assert encoded(NewEvent("T", metadata=metadata)).metadata_bytes == metadata


@pytest.mark.parametrize(
    "metadata",
    [b'{"$tags":[1]}', b'{"$tags":["a"', b'{"$tags":["a"]x', b'{"$tags":[', b'{"$tags":[]}', 7, "x"],
)
def test_crafted_tags_are_damage(metadata: Any) -> None:
    event = Event((1, 1, "s", "T", bytes(16), 0, 0, b"{}", metadata))
    with pytest.raises(CorruptionError):
        _ = event.tags


def test_metadata_without_tags_is_used_as_it_is() -> None:
    assert tags_of(b'{"a":1}') == tags_of(None) == ()
    assert split_tags(b' {"a":1}') == (b"[]", b' {"a":1}')
    assert split_tags(None) == (b"[]", b"{}")


def test_a_filter_keeps_its_tags() -> None:
    filter = make_filter(None, "c", ["T"], tags=["b", "a", "b"])
    assert filter == EventFilter(None, "c", ["T"], ["a", "b"])
    assert filter != EventFilter(None, "c", ["T"])
    assert filter.as_object() == {"stream": None, "category": "c", "types": ["T"], "tags": ["a", "b"]}
    assert str(filter) == "category 'c', types 'T', tags 'a' and 'b'"
    assert str(EventFilter()) == "all events"
