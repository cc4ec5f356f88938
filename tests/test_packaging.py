"""pyproject.toml held to the code: what is imported is declared, and every bound says why.

That the wheel builds, installs and runs in an empty environment is .ci/run's business.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

import evlog
from tests.support.programs import ROOT, run_python

TEXT = (ROOT / "pyproject.toml").read_text("utf-8")
PROJECT = tomllib.loads(TEXT)["project"]


def names_of(requirements: list[str]) -> set[str]:
    """Return the names under which they are imported, which here are those of the distributions."""
    return {re.split(r"[^\w-]", requirement, maxsplit=1)[0].replace("-", "_") for requirement in requirements}


def third_party_imports(folder: Path, but: Path | None = None) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        if but is not None and path.is_relative_to(but):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"evlog", "tests", "_blake2"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    extras, benchmarks = PROJECT["optional-dependencies"], ROOT / "tests" / "benchmarks"
    for_users = [extra for extra in extras if extra not in {"test", "lint", "bench", "dev"}]
    declared = names_of([*PROJECT["dependencies"], *(need for extra in for_users for need in extras[extra])])
    # The one is imported under TYPE_CHECKING alone, and type checkers bring its types; the other comes with
    # pydantic, which calls what imports it.
    of_others = {"typing_extensions", "pydantic_core"}
    assert third_party_imports(ROOT / "evlog") - of_others == declared
    for_tests = declared | names_of(extras["test"])
    assert third_party_imports(ROOT / "tests", but=benchmarks) <= for_tests | {"xdist"}  # of pytest-xdist
    assert third_party_imports(benchmarks) <= for_tests | names_of(extras["bench"]) | {"nats"}  # of nats-py


def test_every_bound_has_its_reason_beside_it() -> None:
    lines = TEXT.splitlines()
    bounds = [number for number, line in enumerate(lines) if re.search(r'"[\w-]+[<>=~!]=?\d', line)]
    assert len(bounds) >= len(PROJECT["dependencies"])
    bare = [lines[at] for at in bounds if "#" not in lines[at] and not lines[at - 1].lstrip().startswith("#")]
    assert not bare


def test_the_version_is_written_once() -> None:
    written = [
        path.name for path in (ROOT / "evlog").rglob("*.py") if "\n__version__ =" in path.read_text("utf-8")
    ]
    assert written == ["_version.py"]
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", evlog.__version__)


def test_the_script_points_at_a_function() -> None:
    module, _, function = PROJECT["scripts"]["evlog"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_public_names_are_listed() -> None:
    assert all(hasattr(evlog, name) for name in evlog.__all__)
    assert {"open", "EventStore", "NewEvent", "Event", "EvlogError", "ANY", "NO_STREAM"} <= set(evlog.__all__)
    assert (ROOT / "evlog" / "py.typed").exists()


NEEDED = [
    ("prometheus_client", "metrics", "metrics"),
    ("mcp", "mcp", "mcp"),
    ("duckdb", "sql", "sql 'select 1'"),
    ("pyarrow", "sql", "sql 'select 1'"),
    ("pyarrow", "parquet", "export events.parquet"),
    ("zstandard", "zstd", "export events.jsonl.zst"),
    ("uvicorn", "web", "web --no-browser"),
    ("starlette", "web", "web --no-browser"),
    ("jsonschema_rs", "schemas", "schema set T -"),
    ("psycopg", "postgresql", "info --store postgresql://127.0.0.1:1/x"),
    ("confluent_kafka", "kafka", "info --store kafka://127.0.0.1:1/x"),
    ("botocore", "dynamodb", "info --store dynamodb://eu-west-1/x"),
]


@pytest.mark.parametrize(("module", "extra", "arguments"), NEEDED)
def test_a_missing_library_is_a_line_that_names_its_extra(
    tmp_path: Path, module: str, extra: str, arguments: str
) -> None:
    hide = f"import sys; sys.modules[{module!r}] = None; from evlog.cli.app import main; main()"
    with evlog.open(tmp_path / ".evlog", create=True) as store:
        store.append("s", [evlog.NewEvent("T")])
    done = run_python("-c", hide, *shlex.split(arguments), code=10, cwd=tmp_path, input="{}")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"which is not installed; run pip install 'evlog-store[{extra}]'\n")


@pytest.mark.parametrize("names_itself", [True, False])
@pytest.mark.parametrize(("module", "extra", "arguments"), NEEDED)
def test_a_library_that_cannot_be_loaded_is_not_said_to_be_missing(
    tmp_path: Path, module: str, extra: str, arguments: str, names_itself: bool
) -> None:
    named = f", name={module + '.core'!r}" if names_itself else ""  # as the loader does, or as psycopg does
    (tmp_path / f"{module}.py").write_text(f"raise ImportError('libx.so.1:\\n cannot open it'{named})\n")
    shadow = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from evlog.cli.app import main; main()"
    with evlog.open(tmp_path / ".evlog", create=True) as store:
        store.append("s", [evlog.NewEvent("T")])
    done = run_python("-c", shadow, *shlex.split(arguments), code=10, cwd=tmp_path, input="{}")
    assert done.stderr.count("\n") == 1
    assert "which cannot be loaded (libx.so.1: cannot open it); install it again" in done.stderr
    assert f"run pip install 'evlog-store[{extra}]'" in done.stderr
    assert "is not installed" not in done.stderr
