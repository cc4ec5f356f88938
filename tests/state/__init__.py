"""Tests of states and snapshots that need more than one engine's public store."""
