"""Following a log, and the files of named subscriptions."""
