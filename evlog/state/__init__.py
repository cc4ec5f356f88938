"""States that are folded from events, and the snapshots that keep them. Begin with compute.py.

fold.py        a fold: a function with a name and a version; the default one merges (RFC 7396)
compute.py     a state, from events and perhaps a snapshot
snapshots.py   what a snapshot holds, and when it can be used
"""
