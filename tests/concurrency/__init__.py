"""Many processes and threads on one store: one order of events, no lost update, no wait for a dead process.

history.py      whether the results of all processes fit one order of events
worker.py       one process of many
forks.py        forks while another thread holds a mutex
long_follow.py  a day of following in fast forward
"""
