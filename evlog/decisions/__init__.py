"""Decisions: read events, decide, append; repeat all of it when another writer appended first.

transact.py   one decision of a program
policies.py   changing a retention policy
unread.py     whether a compaction would remove what a subscription has yet to read
"""
