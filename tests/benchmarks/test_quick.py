import json
from pathlib import Path

import pytest

from tests.benchmarks.measure import Figure, Target
from tests.benchmarks.report import print_report, to_json
from tests.benchmarks.run import TINY, Run, run_workload
from tests.benchmarks.workloads import WORKLOADS


@pytest.fixture(scope="module")
def run_(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(TINY, tmp_path_factory.mktemp("benchmarks"))


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_every_workload_reports_figures_with_their_settings(
    name: str, run_: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_workload(WORKLOADS[name], run_)
    (found,) = json.loads(to_json([report], {}, "tiny"))["workloads"]
    assert found["workload"] == name
    assert found["settings"]
    assert found["figures"]
    for figure in found["figures"]:
        assert set(figure) == {"label", "unit", "ratios", "asked", "met", "medians", "samples"}
        assert figure["medians"]
        assert all(value > 0 for value in figure["medians"].values())
    print_report(report)
    assert report.title in " ".join(capsys.readouterr().out.split())  # a title may be wrapped


def test_a_ratio_is_the_median_of_the_ratios_of_neighbours() -> None:
    figure = Figure(
        "x", "s", {"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 2.0]}, Target(3.0, at_least=True, over="b")
    )
    assert figure.ratios() == {"b": 3.0}
    assert figure.is_met()


@pytest.mark.parametrize(("value", "met"), [(9.0, False), (10.0, True), (11.0, True)])
def test_a_target_without_a_peer_is_about_the_first_column(value: float, met: bool) -> None:
    assert Figure("x", "events/s", {"a": [value], "b": [1.0]}, Target(10.0, at_least=True)).is_met() is met
