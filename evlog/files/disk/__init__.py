"""System calls: files, locks, watching, processes. Nothing here knows what an event is."""
