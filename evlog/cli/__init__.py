"""The command line. It holds no storage logic, and importing this package alone costs nothing.

app.py is the entry point: errors to exit codes. group.py knows the commands' names and imports one command,
the one that was called. There is one module for each command; what several share is in options.py (what
they are told), console.py (bytes in and out) and output.py (forms).
"""
