"""The session that runs a page's blocks: what it runs, in which order, and what it compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.readme import Page, run_blocks, shell_environment

PAGE = """\
# One

```sh
x=1
printf %s "$x" > shared
```

```python
from pathlib import Path
n = int(Path("shared").read_text()) + 1
Path("shared").write_text(str(n))
```

```sh
cat shared && echo " and $x"
```

```text
2 …nd 1
```

```python
print(n)
```

```text
2
```
"""


def run(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run_blocks(Page("page.md", text).blocks, folder, shell_environment(folder / "environment"))


def test_shell_and_python_take_turns_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(PAGE, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("2 …nd 1", "3 …nd 1"),
        ("print(n)", "print(n, n)"),
        ("x=1", "x=1\nfalse"),
        ("print(n)", "raise OSError"),
    ],
)
def test_what_does_not_print_what_it_shows_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    with pytest.raises((AssertionError, OSError)):
        run(PAGE.replace(right, wrong), tmp_path, monkeypatch)


@pytest.mark.parametrize("fence", ["sh no-run", "python no-run", "text", "json", "yaml"])
def test_what_is_only_shown_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fence: str) -> None:
    shown = f"```{fence}\nfalse\n```\n"
    assert Page("page.md", shown).blocks == []
    run(f"```sh\ntrue\n```\n\nProse.\n\n{shown}{shown}\n```text\nnot compared\n```\n", tmp_path, monkeypatch)


def test_a_block_without_a_language_or_an_end_is_a_mistake() -> None:
    for text in ("```\ntrue\n```\n", "```sh\ntrue\n"):
        with pytest.raises(AssertionError):
            _ = Page("page.md", text).blocks
