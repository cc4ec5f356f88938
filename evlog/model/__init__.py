"""Values: events, appends, retention policies, JSON lines. Pure: no I/O. Begin with events.py.

events.py        NewEvent and Event; stream names, types, ids (new_events.py: NewEvents, by columns)
encoding.py      from NewEvent to the fields of a record (typed.py: data that is not plain JSON)
tags.py          tags in the metadata (links.py: correlation, causation and keys)
appends.py       one append: what it writes and expects, and its result
queries.py       queries, and the conditions of an append
filters.py       which events a read or a subscription is about (matching.py: by content)
retention.py     retention policies, and what they hide (policy_changes.py: changing them)
redaction.py     redactions, and what stays of an erased event
checkpoints.py   what a named subscription keeps
history.py       what a mirror is given
reports.py       what info, verify and compact return
json_lines.py    events as JSON lines (json_text.py: JSON without importing json; paths.py: values in it)
arguments.py     checks of texts, numbers and durations
when.py          times as people write them
pins.py          a digest that `verify` printed, to compare history with
named.py         a NamedTuple that is cheap to import (types.py: types for annotations)
"""
