"""Properties, searched by hypothesis: a store and a plain list get the same operations, and answer alike.

machine.py   the operations; test_machine.py runs them
"""
