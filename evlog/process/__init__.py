"""What every package may need of the process that it runs in. Imports nothing of evlog.

forks.py     what a forked child resets
threads.py   threads that no signal is delivered to
"""
