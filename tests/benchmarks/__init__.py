"""Benchmarks: evlog beside what one would use instead, in one run on the same events.

`python -m tests.benchmarks` runs all of them (some ten minutes), `--quick` a small version of all in about a
minute. A peer is a module under `peers/`, a workload a module under `workloads/`.
"""
