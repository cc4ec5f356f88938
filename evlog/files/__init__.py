"""The directory engine: a store in files."""
