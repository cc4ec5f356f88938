"""How `verify`, `repair` and `salvage` look at a store: file by file, then across files. Nothing here writes.

There are two looks at a segment: `proof` and `proving` are fast and say no more than that all is well, or
that they cannot say so; then `segments` takes the close look that names what is wrong.

`logs` checks a log and its entries, `rows` makes such entries anew, `indexes` the sorted files, `segments`
one segment as a whole, `files` what lies in the directories, `across` what must hold over all segments;
`survey` says what damage costs. `workers` spreads the work over processes, `digest` and `history` speak of
pinned digests, `findings` is the report.
"""
