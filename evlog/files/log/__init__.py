"""What is in a store, read: the log, its segments, its indexes."""
