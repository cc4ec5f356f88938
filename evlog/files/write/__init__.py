"""Changing a store. Begin with writer.py, which follows one append; each step is a module.

plan.py           deduplicate, check the conditions, number the events
tail.py           put one frame at the end of the active log (log_file.py); catch up with other writers
sync_marks.py     what is synced before an append returns, and the marks that say so
group_commit.py   the queue in which one writer appends for those that wait
recovery.py       what the next writer does with a torn tail
roll.py           begin a segment; what a crash in a roll leaves, and what clears it
building.py       indexes of sealed segments: when, and in which process (derived.py: their files;
                  filter_file.py: which segments to look into)
create.py         make a store
standing.py       become a mirror, or a store that has moved
"""
