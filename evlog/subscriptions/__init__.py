"""Subscriptions: following by name, retrying, parking."""
