"""The tests, each in the place of what it tests: `pytest -q -n 4 --dist loadgroup` runs all of them.

model process files engines state schemas decisions subscriptions transfer aio adapters web cli   as in evlog

crash         kills, power losses, failing calls and damage, on a test disk and for real
concurrency   many processes and threads at once; forks, suspended processes, schedules of threads
property      a store beside a plain list, by hypothesis
untrusted     stores from a stranger: crafted records, links, huge holes
docs          the README and the guide: every block runs and prints what it shows
golden        a store in committed bytes, which no code writes
benchmarks    evlog beside its peers: `python -m tests.benchmarks`
support       servers, terminals and helpers that several tests use
"""
