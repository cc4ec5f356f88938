"""Many processes and threads on one store: one order of events, no lost update, no wait for a dead one.

history.py      whether what all processes were told fits one order of events
worker.py       one process of many
forks.py        forks while another thread holds a mutex
long_follow.py  a day of following in fast forward
"""
