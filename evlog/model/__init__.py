"""Values: events, appends, retention policies, JSON lines. Pure: no I/O and no clock."""
