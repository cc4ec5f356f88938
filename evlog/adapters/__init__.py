"""The store for other systems. Each module is written on the public store, and needs a library of its own.

sql.py          queries in SQL by DuckDB (predicates.py, rewriting.py: what of the store they read)
metrics.py      a store's numbers as OpenMetrics text
mcp.py          a server of the Model Context Protocol
eventsourcing/  recorders for the `eventsourcing` library
"""
