"""Decisions: read what happened, decide what follows, append it, and again when another writer was first.

transact.py   one decision
"""
