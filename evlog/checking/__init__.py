"""How `verify`, `repair` and `salvage` look at a store: file by file, then across files. Nothing here writes.

`logs` proves a log and its entries, `indexes` the sorted files, `segments` one segment as a whole, `files`
what lies in the directories, `across` what must hold over all segments; `survey` says what damage costs.
`workers` spreads the segments over processes, `digest` and `history` speak of pinned digests, `findings` is
the report.
"""
