"""Decisions: read events, decide, append; repeat all of it when another writer appended first.

transact.py   one decision of a program
policies.py   changing a retention policy
"""
