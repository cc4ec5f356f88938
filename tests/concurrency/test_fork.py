"""A forked child can use the store, whatever the other threads of its parent were doing."""

from __future__ import annotations

import ast
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

import evlog
from evlog.process import forks
from tests.support.helpers import engine_of
from tests.support.programs import ROOT, run_python

MUTEXES = frozenset({"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Barrier"})
# Classes with a mutex that need no reset of their own.
EXEMPT = {
    "_Run": "a run of Workers, which the child leaves to the parent",
    "Subscription": "compares the process before it takes its mutex",
}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def test_child_ends_its_calls_whatever_mutex_a_thread_of_the_parent_held(tmp_path: Path) -> None:
    done = run_python("-m", "tests.concurrency.forks", str(tmp_path / "store"))
    held, hung = done.stdout.splitlines()
    assert {line.partition(":")[0] for line in held.split()} >= {"engine.py", "file_lock.py", "log.py"}
    assert hung == ""


def calls(tree: ast.AST, names: frozenset[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in names:
                yield node


def test_every_class_with_a_mutex_is_reset_in_a_forked_child() -> None:
    paths = [path for path in (ROOT / "evlog").rglob("*.py") if "testing" not in path.parts]  # tests, shipped
    for path in paths:
        check_mutexes(path)


def check_mutexes(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    inside: set[ast.Call] = set()
    for each in ast.walk(tree):
        if not isinstance(each, ast.ClassDef):
            continue
        made = set(calls(each, MUTEXES))
        inside |= made
        if made and each.name not in EXEMPT:
            methods = {node.name for node in each.body if isinstance(node, ast.FunctionDef)}
            assert "reset_after_fork" in methods, f"{each.name} has a mutex and no reset_after_fork"
            assert list(calls(each, frozenset({"register_fork_reset"}))), f"{each.name} is not registered"
    assert not set(calls(tree, MUTEXES)) - inside, f"{path}: a mutex outside of a class is never reset"


def test_registered_objects_are_not_kept_alive() -> None:
    class Holder:
        def reset_after_fork(self) -> None: ...

    holder = Holder()
    forks.register_fork_reset(holder)
    reference = weakref.ref(holder)
    del holder
    gc.collect()
    assert reference() is None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not list descriptors")
def test_child_has_no_lock_and_no_descriptor_of_its_parents_writer(tmp_path: Path) -> None:
    """A descriptor that the child kept would keep the lock of a parent that has ended."""
    with evlog.open(tmp_path / "store", create=True) as store:
        store.append("a", [evlog.NewEvent("T")])
        in_use = (
            engine_of(store)._open_writer()._lock.open()
        )  # as by a thread, whose frame the child has, too
        child = os.fork()
        if not child:
            links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
            names = {os.readlink(link) for link in links if os.path.lexists(link)}
            os._exit(int(any(name.endswith("/store/lock") for name in names)))
        assert os.waitpid(child, 0)[1] == 0
        assert in_use.fd >= 0
