"""The house rules that imports and calls can show: which package imports which, and which module writes.

Everything is read from the source with `ast`, so that a rule is held on every line, also on those that no
test runs. LAYERS is the one table; a module that is new goes into it first.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import run_python

PACKAGE = Path(__file__).parent.parent / "evlog"

# Packages and root modules, from the bottom up. One imports from lower rows only; those of one row do not
# import each other. Inside a package its modules may import each other, without a circle.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "process"}),
    frozenset({"model"}),
    frozenset({"engine", "files/format"}),
    frozenset({"subscriptions", "decisions", "schemas", "state", "files/disk"}),
    frozenset({"files/log"}),
    frozenset({"files/write", "files/follow"}),
    frozenset({"files/compaction", "files/check"}),
    frozenset({"files"}),
    frozenset({"engines"}),
    frozenset({"store"}),
    frozenset({"transfer", "aio"}),
    frozenset({"adapters"}),
    frozenset({"web"}),
    frozenset({"cli", "testing"}),
)
# The few modules at the root that are not a place of their own, with the place that they belong to.
ROOMMATES = {"_version": "errors", "__init__": "transfer", "__main__": "cli", "pytest_plugin": "testing"}
LEVEL = {place: level for level, row in enumerate(LAYERS) for place in row}

# Values and bytes: no I/O, no clock.
PURE = ("errors", "model", "files/format")

# What `import evlog` alone must not import.
LAZY = (
    "eventsourcing",
    "mcp",
    "pydantic",
    "botocore",
    "prometheus_client",
    "duckdb",
    "pyarrow",
    "starlette",
    "uvicorn",
    "typer",
    "rich",
    "msgspec",
    "filelock",
    "inotify_simple",
    "zstandard",
    "ctypes",
)

# The calls that change a file system. Only files/disk/files.py makes them; what it promises is said there.
# An export is a file outside of any store. The conformance suite makes temporary folders. Completion keeps
# names in the user's cache folder. A topic's local index is there, too: it is removed where it does not fit.
WRITERS = (
    "cli/_support/names",
    "engines/kafka/index",
    "files/disk/files",
    "transfer/export",
    "transfer/formats",
    "transfer/parquet",
    "testing/comparison",
)
WRITING_OS = re.compile(
    r"f?(chmod|chown|datasync|sync|truncate)|p?writev?|(sym|un)?link|(rm|mk|make|remove)dirs?|remove|mk(fifo|nod)|"
    r"renames?|replace|copy_file_range|posix_fallocate|sendfile|splice|setxattr|utime|O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)"
)
WRITING_MODULES = frozenset({"pathlib", "shutil", "tempfile"})

# Packages of which each module is the same kind of thing, and a table in code lists them.
LISTED_IN_CODE = ("cli", "testing")

MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))


def layer_of(module: str) -> str:
    """Return the row's name for a module: the longest package of the table that it is in, or itself."""
    module = ROOMMATES.get(module, module)
    parts = module.removesuffix("/__init__").split("/")
    for end in range(len(parts), 0, -1):
        if "/".join(parts[:end]) in LEVEL:
            return "/".join(parts[:end])
    return module


@functools.cache
def imported_modules(module: str) -> frozenset[str]:
    """Return the evlog modules, named as in MODULES, that a module imports, also for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import at line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(module_of(name) for name in names if name.split(".")[0] == "evlog")
    return frozenset(found)


def module_of(dotted: str) -> str:
    """`evlog.files.disk.files.Disk` is in `disk`, `evlog.NewEvent` in `__init__`."""
    parts = dotted.split(".")[1:]
    for end in range(len(parts), 0, -1):
        name = "/".join(parts[:end])
        if name in MODULES:
            return name
        if f"{name}/__init__" in MODULES:
            return f"{name}/__init__"
    return "__init__"


def imports() -> Iterator[tuple[str, str]]:
    """Yield each module with each evlog module that it imports."""
    for module in MODULES:
        for other in imported_modules(module):
            yield module, other


def test_every_module_has_its_layer_and_every_layer_a_module() -> None:
    assert {layer_of(module) for module in MODULES} == set(LEVEL)


def test_a_module_imports_only_from_below() -> None:
    for module, other in imports():
        below, own = layer_of(other), layer_of(module)
        assert below == own or LEVEL[below] < LEVEL[own], f"{module} must not know {other}"


def test_pure_modules_know_only_pure_ones() -> None:
    for module, other in imports():
        assert layer_of(module) not in PURE or layer_of(other) in PURE, f"{module} must not know {other}"


@pytest.mark.parametrize(
    "package",
    sorted(
        package
        for package, _, name in (module.rpartition("/") for module in MODULES)
        if name == "__init__" and package not in LISTED_IN_CODE
    ),
)
def test_a_package_names_its_modules(package: str) -> None:
    docstring = ast.get_docstring(tree_of(f"{package}/__init__" if package else "__init__")) or ""
    begin = f"{package}/" if package else ""
    inside = {module.removeprefix(begin).split("/")[0] for module in MODULES if module.startswith(begin)}
    inside = {name for name in inside if not name.startswith("__") and name != "_version"}
    named = set(re.findall(r"^ *(\w+)\b|\b(\w+)\.py\b|`(\w+)`|\b(\w+)/", docstring, re.MULTILINE))
    assert not inside - {name for names in named for name in names}
    files = set(re.findall(r"\b(\w+)\.py\b", docstring))
    assert files <= {module.rpartition("/")[2] for module in MODULES}, "it names a module that does not exist"


def test_imports_make_no_circle() -> None:
    graph = {module: imported_modules(module) for module in MODULES}
    while graph:
        leaves = [module for module, imports in graph.items() if not imports & graph.keys()]
        assert leaves, f"a circle among {sorted(graph)}"
        for module in leaves:
            del graph[module]


def root_of(attribute: ast.expr) -> str | None:
    """Return the name that a chain of attributes begins with."""
    while isinstance(attribute, ast.Attribute):
        attribute = attribute.value
    return attribute.id if isinstance(attribute, ast.Name) else None


def test_an_error_that_is_kept_is_raised_as_a_copy() -> None:
    """See `EvlogError.unraised`."""
    found = [
        f"{module}:{node.lineno}"
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Attribute) and root_of(node.exc) == "self"
    ]
    assert found == []


def test_importing_the_library_leaves_the_command_line_alone() -> None:
    report = "import sys, evlog; evlog.open; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))"
    done = run_python("-c", report, *LAZY, "evlog.cli", "asyncio", "logging", "pathlib")
    assert done.stdout.split() == []


def writing_calls(tree: ast.Module) -> Iterator[str]:
    """Yield where a module changes files by itself, as `line: what`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            if owner == "os" and WRITING_OS.fullmatch(node.attr):
                yield f"{node.lineno}: os.{node.attr}"
            elif node.attr == "ACCESS_WRITE":
                yield f"{node.lineno}: .{node.attr}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in WRITING_MODULES:
                    yield f"{node.lineno}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in WRITING_MODULES | {"os"}:
                yield f"{node.lineno}: from {node.module} import"
        elif isinstance(node, ast.Call) and opens_for_writing(node):
            yield f"{node.lineno}: open for writing"


def opens_for_writing(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in {"open", "fdopen"}:
        return False
    arguments = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [str(node.value) for node in arguments if isinstance(node, ast.Constant)]
    return any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)


def test_only_disk_writes() -> None:
    for module in set(MODULES) - set(WRITERS):
        assert not list(writing_calls(tree_of(module))), module


@pytest.mark.parametrize(
    "source",
    [
        "os.replace(a, b)",
        "flags = os.O_RDONLY | os.O_CREAT",
        "open(path, 'ab')",
        "open(path, mode='r+b')",
        "io.open(path, 'w')",
        "from pathlib import Path",
        "from os import write",
        "import shutil",
        "mmap.mmap(fd, 0, access=mmap.ACCESS_WRITE)",
    ],
)
def test_a_writing_call_is_seen(source: str) -> None:
    assert list(writing_calls(ast.parse(source)))


@pytest.mark.parametrize("source", ["open(path, 'rb')", "os.open(path, os.O_RDONLY)", "disk.replace(a, b)"])
def test_a_reading_call_is_let_through(source: str) -> None:
    assert not list(writing_calls(ast.parse(source)))
