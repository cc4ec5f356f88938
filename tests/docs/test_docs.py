"""README.md, the guide and CHANGELOG.md held to the code: every block runs and prints what it shows.

The two lines that make an environment of their own (under "Install" and "Tests") are run by .ci/run, which
takes them out of the README; here they would install evlog once more for each run of the tests.
"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import pytest

import evlog
from evlog import errors
from evlog._version import __version__
from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.plain import load
from evlog.cli.help import SECTIONS
from tests.support.programs import ROOT, next_line, run_python, start_python
from tests.support.readme import (
    GUIDE,
    README_PAGE,
    Page,
    blocks,
    make_repository,
    run_blocks,
    run_session,
    shell_environment,
)

CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
OWN_ENVIRONMENT = (("README.md", "Install"), ("README.md", "Tests"))
DPKG_LOG = "/var/log/dpkg.log"
DPKG_LINES = """\
2026-01-05 14:36:25 startup archives unpack
2026-01-05 14:36:25 upgrade libc6:amd64 2.36-9+deb12u10 2.36-9+deb12u13
2026-01-05 14:36:25 status half-configured libc6:amd64 2.36-9+deb12u10
2026-01-05 14:36:25 status unpacked libc6:amd64 2.36-9+deb12u10
2026-01-05 14:36:26 status unpacked libc6:amd64 2.36-9+deb12u10
2026-01-05 14:36:26 status triggers-pending libc-bin:amd64 2.36-9+deb12u10
2026-01-05 14:36:26 status triggers-pending libc-bin:amd64 2.36-9+deb12u10
2026-01-05 14:36:27 configure libc6:amd64 2.36-9+deb12u13 <none>
2026-01-05 14:36:27 status installed libc6:amd64 2.36-9+deb12u13
"""


def run(page: Page, folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every block of a page in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EVLOG_STORE", raising=False)
    log = folder.parent / "dpkg.log"
    log.write_text(DPKG_LINES)
    found = [block for block in page.blocks if (page.name, block.heading) not in OWN_ENVIRONMENT]
    if shutil.which("flock") is None:
        found = [block for block in found if "flock" not in block.code]
    run_blocks(
        [block._replace(code=block.code.replace(DPKG_LOG, str(log))) for block in found], folder, environment
    )


@pytest.mark.parametrize("page", [README_PAGE, *GUIDE], ids=lambda page: page.name)
def test_every_block_of_a_page_prints_what_it_shows(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = shell_environment(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    if "git log" in page.text:
        if shutil.which("git") is None:
            pytest.skip("the page reads a git history, and there is no git")
        make_repository(folder, environment)
    if "evlog schema set" in page.text:
        pytest.importorskip("jsonschema_rs")
    if "PERSISTENCE_MODULE" in page.text:
        pytest.importorskip("eventsourcing")
    run(page, folder, environment, monkeypatch)


BUSY_WRITER = """
import sys, evlog

with evlog.open(sys.argv[1], create=True, segment_events=64, sync="none") as store:
    while True:
        for _ in range(10):
            result = store.append("busy", [evlog.NewEvent("Ticked", {"n": n}) for n in range(5)])
        print(result.last_position, flush=True)
"""


@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock program")
def test_backup_of_a_store_that_is_being_written_is_whole(tmp_path: Path) -> None:
    store = tmp_path / "store"
    environment = shell_environment(tmp_path / "programs") | {"EVLOG_STORE": str(store)}
    writer = start_python("-c", BUSY_WRITER, str(store))
    try:
        acknowledged = [int(next_line(writer)) for _ in range(10)][-1]
        run_session(["evlog backup copy\n"], tmp_path, environment)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    with evlog.open(tmp_path / "copy") as copy:
        positions = [event.position for event in copy.read_all()]
        assert positions == list(range(1, copy.head + 1))
        assert copy.head >= acknowledged
        assert (
            copy.append("busy", [evlog.NewEvent("Ticked")]).last_position == copy.head == len(positions) + 1
        )


@pytest.mark.parametrize("heading", [heading for _, heading in OWN_ENVIRONMENT])
def test_install_and_tests_are_one_line_each(heading: str) -> None:
    (block,) = [block for block in blocks("sh") if block.heading == heading]
    assert block.code.count("\n") == 1
    assert block.code.startswith("python3 -m venv ")


def test_ci_runs_the_lines_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert all(f'readme_line "{heading}"' in script for _, heading in OWN_ENVIRONMENT)


def evlog_lines(page: Page) -> list[tuple[str, list[str]]]:
    """Return each command that a page names in code, with the long options beside it."""
    code = [block.code.replace("\\\n", " ") for block in blocks("sh", page)]
    code += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.text)
    lines = "\n".join(code).splitlines()
    lines += [inner for line in lines for inner in re.findall(r"\$\(([^()]*)\)", line)]
    found = []
    for line in lines:
        for call in re.split(r"[|;&]+", re.sub(r"\$\([^()]*\)", "…", line)):
            match = re.search(r"(?<![\w./-])evlog (?:--store \S+ )?([a-z]+)\b(.*)", call)
            if match:
                found.append((match[1], re.findall(r"(?<!\S)--[a-z-]+", match[2])))
    return found


@functools.cache
def help_of(command: str) -> str:
    done = run_python("-m", "evlog", command, "--help")
    actions = getattr(load(command), "SUBCOMMANDS", {}) if command in COMMANDS else {}
    flags = {flag for action in actions.values() for option in action.PARAMETERS for flag in option.flags}
    return " ".join([done.stdout, *sorted(flags)])


def test_the_readme_names_the_commands() -> None:
    named = {command for command, _ in evlog_lines(README_PAGE)}
    assert {"init", "append", "read", "streams", "info"} <= named


@pytest.mark.parametrize("page", [README_PAGE, *GUIDE], ids=lambda page: page.name)
def test_every_command_and_option_in_a_page_exists(page: Page) -> None:
    named: dict[str, set[str]] = {}
    for command, beside in evlog_lines(page):
        named.setdefault(command, set()).update(beside)
    for command, options in named.items():
        text = help_of(command)
        assert not [option for option in options if not re.search(rf"{option}\b", text)], f"evlog {command}"


def exit_code_rows() -> dict[int, tuple[str, set[str]]]:
    """Return the table of exit codes in the README or the guide: the name and exceptions of each code."""
    text = "".join(page.text for page in [README_PAGE, *GUIDE])
    rows = re.findall(r"^\| (\d+) \| ([\w-]+) \|([^|]*)\| [^|]+ \|$", text, re.MULTILINE)
    return {int(code): (name, set(re.findall(r"`(\w+)`", exceptions))) for code, name, exceptions in rows}


def error_classes() -> list[type[errors.EvlogError]]:
    return [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.EvlogError)
    ]


def test_the_readme_lists_the_guide_as_help_does() -> None:
    guide = README_PAGE.text.split("## The guide")[1].split("\n## ")[0]
    parts = re.split(r"^- (\w+): ", guide, flags=re.MULTILINE)[1:]
    listed = {
        name: tuple(re.findall(r"\[([\w-]+)\]", text))
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    assert list(listed.items()) == list(SECTIONS.items())


def test_the_figures_of_the_readme_are_those_of_the_guide() -> None:
    (claim,) = re.findall(r"^On two cores, .*?\n\n", README_PAGE.text, re.MULTILINE | re.DOTALL)
    (engines,) = [page.text for page in GUIDE if page.name.endswith("engines.md")]
    rows = [line.split("|") for line in engines.splitlines() if line.startswith("|")]
    directory = {row[1].strip(): row[2].strip() for row in rows}
    names = ("single appends/s, 1 process", "events/s in batches of 1,000", "scan, events/s")
    assert [number for number in re.findall(r"[\d,]*\d", claim) if number != "1,000"] == [
        directory[name] for name in names
    ]


def test_every_exception_is_listed_beside_its_exit_code() -> None:
    listed = {name: code for code, (_, exceptions) in exit_code_rows().items() for name in exceptions}
    assert listed == {each.__name__: each.exit_code for each in error_classes()}


def test_the_module_of_errors_begins_with_a_table_of_all() -> None:
    rows = re.findall(r"^ +(\d+)  ([\w-]+) +((?:.+\n)(?: {10,}.+\n)*)", errors.__doc__ or "", re.MULTILINE)
    listed = {name: int(code) for code, _, names in rows for name in re.findall(r"\b[A-Z]\w+", names)}
    listed = {name: code for name, code in listed.items() if name != "ValueError"}
    assert listed == {each.__name__: each.exit_code for each in error_classes()}


def test_every_exit_code_is_listed_by_its_name() -> None:
    codes = {
        value: name.removeprefix("EXIT_").lower().replace("_", "-")
        for name, value in vars(errors).items()
        if name.startswith("EXIT_")
    }
    assert {code: name for code, (name, _) in exit_code_rows().items()} == codes


@pytest.mark.parametrize("page", [README_PAGE, *GUIDE], ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page: Page) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.text)
    folder = (ROOT / page.name).parent
    assert not [link for link in links if "://" not in link and not (folder / link).exists()]


def test_the_keys_of_the_page_are_those_of_the_guide() -> None:
    (guide,) = (page.text for page in GUIDE if page.name.endswith("/web.md"))
    rows = re.findall(r"^\| (`.+?) \| ", guide.partition("## Keys")[2], re.MULTILINE)
    named = {key for row in rows for key in re.findall(r"`(.+?)`", row)} - {"↓", "↑"}
    script = (ROOT / "evlog" / "web" / "static" / "keys.js").read_text("utf-8")
    listed = re.findall(r'^  \["(.+?)", "', script, re.MULTILINE)
    assert {key for keys in listed for key in keys.split()} - {"Enter"} == named


def changelog_sections() -> dict[str, str]:
    """Return the text of each version's section, by its heading."""
    parts = re.split(r"^## (.+)$", CHANGELOG, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_changelog_keeps_the_form() -> None:
    sections = changelog_sections()
    assert CHANGELOG.startswith("# Changelog\n")
    assert next(iter(sections)) == "[Unreleased]"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for heading, text in sections.items():
        assert re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading), heading
        assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds, heading
        assert heading == "[Unreleased]" or re.search(r"^- ", text, re.MULTILINE), f"{heading} says nothing"


def test_changelog_has_no_version_beyond_the_packages() -> None:
    versions = [__version__, *re.findall(r"^## \[(\d+\.\d+\.\d+)\]", CHANGELOG, re.MULTILINE)]
    current, *released = [tuple(int(part) for part in version.split(".")) for version in versions]
    assert released == sorted(released, reverse=True)
    assert all(version <= current for version in released)
