"""Properties, checked by hypothesis: a store and a plain list get the same operations and give equal answers.

machine.py   the operations; test_machine.py runs them
"""
