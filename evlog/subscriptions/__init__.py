"""Subscriptions: following the log, live and by name. Written against `evlog.engine`; begin with `run.py`."""
