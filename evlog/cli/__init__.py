"""The command line. It holds no storage logic, and importing this package alone costs nothing.

Begin with app.py, the entry point: it runs a command and turns errors into exit codes. Each command is a
module with its help, a table of its parameters and a function `command`. In `_support`, parameters.py has
the tables' parts; plain.py reads the usual command lines without Typer, group.py all others with it;
console.py writes all output. A new command gets a module here and a line in `_support/commands.py`.
"""
