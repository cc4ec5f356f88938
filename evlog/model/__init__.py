"""Values: events, appends, retention policies, JSON lines. Pure: no I/O. Begin with events.py.

events.py        NewEvent and Event; stream names, types, ids (new_events.py: NewEvents, by columns)
encoding.py      from NewEvent to the fields of a record (json_text.py: JSON without importing json)
appends.py       one append: what it writes and expects, and its result
filters.py       which events a read or a subscription is about
retention.py     retention policies, and what they hide
checkpoints.py   what a named subscription keeps
reports.py       what info, verify and compact return
json_lines.py    events as JSON lines, for the command line
pins.py          a digest that `verify` printed, to compare history with
named.py         a NamedTuple that is cheap to import
"""
