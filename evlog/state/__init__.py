"""What follows from events: states, the snapshots that keep them, and stories. Begin with compute.py.

fold.py        a fold: a function with a name and a version; the default one merges (RFC 7396)
compute.py     a state, from events or from a snapshot and later events
upcasting.py   old events in today's shape, when they are read
event_types.py the classes of the data of event types
trace.py       the story of an event: its causes and effects
snapshots.py   what a snapshot holds, and when it can be used
"""
