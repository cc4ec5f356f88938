"""JSON Schemas of event types: kept in the store as events of its own, checked before data is appended.

registry.py    the schemas of a store, and what each append checks. Read this first
validation.py  one schema, compiled
"""
