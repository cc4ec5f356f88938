"""JSON Schemas of event types: kept in the store as events of its own, checked before data is appended."""
