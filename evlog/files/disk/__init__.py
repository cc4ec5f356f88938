"""System calls: files, locks, watching, processes. Nothing here knows what an event is.

files.py        write, sync, replace, read and map files: the only module that writes. Read this first
opening.py      open files of a store that may come from a stranger; what an error of the system means
file_lock.py    locks on files, between processes and threads
range_lock.py   locks on single bytes of a file
watch.py        wait until a directory changes
processes.py    work on several cores
helper.py       what runs in the other processes
zstd.py         compress blocks
"""
