"""The workflow of GitHub Actions in the guide: its steps are run as a runner runs them, job beside job."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

import evlog
from evlog.testing.base import in_threads
from tests.support.readme import GUIDE, shell_environment

(PAGE,) = [page for page in GUIDE if page.name.endswith("/ci.md")]
(WORKFLOW,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.text, re.DOTALL | re.MULTILINE)
SHARDS = range(1, 9)
PASSES = "#!/bin/sh\ntrue\n"
FOURTH_FAILS = '#!/bin/sh\ntest "$1" != 4\n'


@dataclass
class Step:
    script: str
    always: bool


def steps_of(job: str) -> list[Step]:
    """Return the scripts of a job, all but the installations."""
    text = re.split(r"^  (\w+):\n", WORKFLOW.partition("jobs:\n")[2], flags=re.MULTILINE)
    body = text[text.index(job) + 1]
    steps = []
    for step in re.split(r"^      - ", body.partition("    steps:\n")[2], flags=re.MULTILINE)[1:]:
        found = re.search(r"^ *run: \|\n((?: {10}.*\n)+)", step, re.MULTILINE)
        if found is not None:
            script = re.sub(r"^ {10}", "", found[1], flags=re.MULTILINE)
            steps.append(Step(script, "if: always()" in step))
        else:
            assert "uses:" in step or "pip install evlog-store" in step, step
    return steps


@dataclass
class Runner:
    """A machine's folder and files, as GitHub gives them to the steps of one job."""

    folder: Path
    environment: dict[str, str]
    values: dict[str, str] = field(default_factory=dict)
    program: str = ""  # what a checkout brings

    def __post_init__(self) -> None:
        """Write the program before other threads fork: what a child holds open cannot be run."""
        self.folder.mkdir()
        program = self.folder / "run-tests"
        program.write_text(self.program)
        program.chmod(0o755)

    def run(self, job: str) -> bool:
        """Run a job; whether all of its steps were successful."""
        files = {name: str(self.folder / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        good = True
        for step in steps_of(job):
            if not (good or step.always):
                continue
            script = re.sub(r"\$\{\{ (.*?) \}\}", lambda found: self.values[found[1]], step.script)
            done = subprocess.run(
                ["bash", "-e", "-c", script],  # a runner's default, without pipefail
                cwd=self.folder,
                env=self.environment | files,
                capture_output=True,
                timeout=120,
                check=False,
            )
            good = good and done.returncode == 0
        return good


@pytest.mark.parametrize(("program", "passes"), [(PASSES, True), (FOURTH_FAILS, False)])
def test_the_workflow_does_what_the_page_says(tmp_path: Path, program: str, passes: bool) -> None:
    environment = shell_environment(tmp_path) | {
        "EVLOG_STORE": str(tmp_path / "store"),
        "RUN": "run-7.1",
    }
    begin = Runner(tmp_path / "begin", environment)
    assert begin.run("begin")
    name, _, digest = (tmp_path / "begin" / "GITHUB_OUTPUT").read_text().strip().partition("=")
    assert (name, digest[:2], len(digest)) == ("digest", "1:", 66)
    assert not Runner(tmp_path / "again", environment).run("begin")  # two runs of one name do not mix

    runners = {"report": Runner(tmp_path / "report", environment, {"needs.begin.outputs.digest": digest})}
    for shard in SHARDS:
        values = {"matrix.shard": str(shard)}
        runners[f"test {shard}"] = Runner(tmp_path / f"test-{shard}", environment, values, program)
    results: dict[str, bool] = {}

    def run(name: str) -> None:
        results[name] = runners[name].run(name.partition(" ")[0])

    in_threads(partial(run, name) for name in runners)
    assert results == {name: passes or name not in {"test 4", "report"} for name in runners}
    summary = (tmp_path / "report" / "GITHUB_STEP_SUMMARY").read_text()
    assert ("| 4 | ShardFailed | 20" in summary) is not passes
    if passes:
        assert re.findall(r"^\| (\d) \| ShardPassed \|", summary, re.MULTILINE) == list(map(str, SHARDS))
    with evlog.open(tmp_path / "report" / "history") as history:
        assert [event.type for event in history.read_all(limit=1)] == ["Started"]
        assert history.head > 1
