"""Changing a store: appends, recovery, rolls."""
