"""What the commands share.

parameters.py  the parameters of commands: tables of them, and the values of one call
plain.py       reads the usual command lines without Typer (group.py: all others, and the help)
commands.py    the list of commands
options.py     which store a command uses, and how it is opened
event.py       the event that `append` is given (conditions.py: its conditions)
foreign.py     lines of any shape as events (stdin.py: reading them)
console.py     all bytes to stdout and stderr. Every command writes through it
output.py      the forms of events (fields.py: by `--fields`; context.py: with `--context`)
listing.py     the forms of all other lists (results.py: of a query's rows; lag.py: of `wait` and `check`)
table.py       what a terminal gets: tables (clock.py: times; pager.py; progress.py)
start.py       where `tail` starts (deliver.py: hands events on; stops.py: what ends it)
exec.py        `--exec` (child.py: one run of its command)
advice.py      what to do about an error (slips.py: about a word that evlog does not know)
complete.py    completion by Tab (names.py: of names in a store)
"""
