"""What other systems read: written on the public store, each module with a client library of its own.

metrics.py      a store's numbers as OpenMetrics text
mcp.py          a server of the Model Context Protocol
eventsourcing/  recorders for the `eventsourcing` library
"""
