"""Crashes: a scenario is recorded on a test disk; every state that a crash may leave is opened and checked.

disk.py         the test disk, which records every operation. Read this first
model.py        the model of a disk: what is durable, and what a power loss may take
states.py       the legal states after a crash (explore.py: checks many of them)
check.py        what must be true of a store after anything
recordings.py   scenarios of appends and rolls (compaction.py: a compaction; steps.py: steps of commands)
chain.py        two faults in a row
faults.py       system calls that fail
damage.py       a small store, to be damaged
storm.py        killed processes (worker.py: one of them; history.py: what was acknowledged to them)
file_systems.py power losses on real file systems (block_device.py: a device that records every write)
soak.py         the long run of all of these (compaction_storm.py: that of compactions)
"""
