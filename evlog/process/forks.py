"""Reset what a forked child must not share with its parent: mutexes, locks between processes, descriptors.

1. A thread of the parent may have held any mutex at the moment of the fork. That thread does not exist in
   the child, so a copied mutex could never be acquired again.
2. Every object with a mutex registers itself and resets itself in the child, before other code runs there.
3. What the mutex guards may have been half changed: the object drops it, if it can be built again.
4. A lock between processes stays with the parent. The child closes its copy of the descriptor.
"""

from __future__ import annotations

import os
from _weakrefset import WeakSet  # threading has imported it; weakref itself would cost a millisecond

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

    class Resettable(Protocol):
        """An object that a forked child must not share with its parent."""

        def reset_after_fork(self) -> None:
            """Start again in the child: new mutexes, nothing locked, nothing half changed."""


_registered: Final[WeakSet[Resettable]] = WeakSet()


def register_fork_reset(holder: Resettable) -> None:
    """Have `holder.reset_after_fork` called in every child that is forked while the holder is referenced."""
    _registered.add(holder)


def _reset_all() -> None:
    for holder in list(_registered):
        holder.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
