import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import plot, table
from tests.benchmarks.__main__ import main
from tests.benchmarks.measure import BEST, Figure, Report, Target
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.nats_jetstream import NatsJetStream
from tests.benchmarks.report import print_machine, print_table, to_json
from tests.benchmarks.run import TINY, Run, run_workload
from tests.benchmarks.table import LAST, ROWS, Outcome, Row, outcomes_json, print_outcomes, run_table
from tests.benchmarks.workloads import WORKLOADS
from tests.benchmarks.workloads.web import find_browser
from tests.support import kafka, ministack
from tests.support.postgresql import binaries

HERE = [name for name, peer in PEERS.items() if peer.needs_nothing]


@pytest.fixture(scope="module")
def run_() -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="evlog-test-") as folder:
        Path(folder).chmod(0o755)  # a server runs as another user; pytest's own folders are closed to it
        yield Run(TINY, Path(folder), HERE)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_reports_figures_with_their_settings(
    name: str, run_: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "postgresql" and binaries() is None:
        pytest.skip("no PostgreSQL is installed")
    if name == "web" and find_browser() is None:
        pytest.skip("no Chromium is installed")
    if name == "nats" and NatsJetStream.how_to_get() is not None:
        pytest.skip("no NATS server or client is installed")
    if name == "dynamodb" and not ministack.IS_INSTALLED:
        pytest.skip("no stand-in for DynamoDB is installed")
    if name == "kafka" and kafka.maybe_jars() is None:
        pytest.skip("no Java or Maven is installed")
    report = run_workload(name, run_)
    (found,) = json.loads(to_json([report], {}, "tiny"))["workloads"]
    assert found["workload"] == name
    assert found["settings"]
    assert found["figures"]
    for figure in found["figures"]:
        assert set(figure) == {"label", "unit", "ratios", "asked", "medians", "samples"}
        assert figure["medians"]
    for row in ROWS:
        if row.workload == name:
            assert any(map(row.is_about, report.figures)), row
    print_table([report])
    out = capsys.readouterr().out
    assert report.workload in out
    assert "took" in out


def test_peers_that_need_nothing_are_always_there() -> None:
    assert HERE[0] == "evlog"
    assert len(HERE) > 2
    assert [PEERS[name].how_to_get() for name in HERE] == [None] * len(HERE)


def test_a_missing_peer_is_skipped_with_a_line_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PEERS["redis"], "how_to_get", classmethod(lambda _: "pip install -e '.[bench]'"))
    command = ["x", "resend", "--quick", "--json", "--peers", "redis", "sqlite", "--dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["skipped"] == {"redis": "pip install -e '.[bench]'"}
    assert set(found["workloads"][0]["figures"][0]["medians"]) == {"evlog", "sqlite"}
    assert list(tmp_path.iterdir()) == []
    print_machine({}, "quick", found["skipped"])
    assert "pip install -e '.[bench]'" in capsys.readouterr().out


def test_a_ratio_of_rates_says_how_many_times_as_many() -> None:
    samples = {"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 2.0]}
    figure = Figure("x", "events/s", samples, Target(3.0, at_least=True, over="b"))
    assert figure.ratios() == {"b": 3.0}
    assert figure.is_met()


def test_a_ratio_of_costs_says_how_many_times_as_cheap() -> None:
    figure = Figure("x", "µs", {"a": [2.0], "b": [1.7]}, Target(1.2, at_least=False, over="b"))
    assert figure.ratios() == {"b": pytest.approx(0.85)}
    assert figure.is_met()


@pytest.mark.parametrize(("value", "met"), [(9.0, False), (10.0, True), (11.0, True)])
def test_a_target_without_a_peer_is_about_the_first_column(value: float, met: bool) -> None:
    assert Figure("x", "events/s", {"a": [value], "b": [1.0]}, Target(10.0, at_least=True)).is_met() is met


def test_the_best_peer_is_none_of_the_floors() -> None:
    samples = {"evlog": [6.0], "sqlite": [2.0], "lmdb": [3.0], "json-lines": [60.0]}
    asked = Target(2.0, at_least=True, over=BEST)
    figure = Figure("x", "events/s", samples, asked, Target(0.6, at_least=True, over="json-lines"))
    assert figure.is_met(asked)
    assert not figure.is_met()


def test_a_row_is_the_worst_of_its_figures_beside_the_best_other_peer() -> None:
    figures = [
        Figure(
            "scan, forwards", "events/s", {"evlog": [6.0], "sqlite": [2.0], "lmdb": [3.0], "rocksdb": [9.0]}
        ),
        Figure("scan, backwards", "events/s", {"evlog": [8.0], "sqlite": [2.0], "lmdb": [2.0]}),
        Figure("other", "events/s", {"evlog": [1.0], "sqlite": [2.0]}),
    ]
    reports = [Report("scan", "all", figures)]
    assert Row("x", "scan", "scan, ", 2, but="rocksdb").measured(reports) == (2.0, "lmdb")
    assert Row("x", "scan", "forwards", 1, "rocksdb").measured(reports) == (6.0 / 9.0, "rocksdb")
    assert Row("x", "scan", "forwards", 1, LAST).measured(reports) == (6.0 / 9.0, "rocksdb")
    assert Row("x", "scan", "forwards", 1, None).measured(reports) == (6.0, "")
    assert Row("x", "streams", "forwards", 1).measured(reports) is None


def test_the_table_says_what_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [
        Outcome(Row("quick enough", "scan", "", 1.5), [1.4, 1.6, 1.7], "lmdb"),
        Outcome(Row("too slow", "scan", "", 1.5), [1.4], "lmdb"),
        Outcome(Row("held long", "compact", "", 10, None, most=True), [11.0], ""),
        Outcome(Row("not there", "scan", "", 1), [], ""),
    ]
    assert [outcome.is_reached for outcome in outcomes] == [True, False, False, None]
    assert json.loads(outcomes_json(outcomes, {}, "tiny"))["table"][0]["values"] == [1.4, 1.6, 1.7]
    print_outcomes(outcomes, sys.stdout)
    out = capsys.readouterr().out
    assert "1.4…1.7" in out
    assert "not measured" in out
    assert "1 of 4 reached" in out


def test_the_table_keeps_what_was_measured_before_a_workload_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run_workload(name: str, _: Run) -> Report:
        if name != "scan":
            raise RuntimeError("no server")
        asked.append("scan")
        if len(asked) == 2:
            raise RuntimeError("no server")
        return Report("scan", "all", [Figure("full scan", "events/s", {"evlog": [3.0], "lmdb": [2.0]})])

    monkeypatch.setattr(table, "run_workload", run_workload)
    said: list[str] = []
    outcomes = run_table(lambda folder: Run(TINY, folder, ["evlog"]), tmp_path, 2, said.append)
    assert [outcome.values for outcome in outcomes if outcome.values] == [[1.5]]
    assert "1/2 full scan: 1.5 lmdb" in said
    assert "2/2 scan: failed: RuntimeError('no server')" in said
    assert list(tmp_path.iterdir()) == []


def test_the_chart_of_goals_shows_what_was_reached_beside_what_was_asked() -> None:
    outcomes = [
        Outcome(Row("ahead", "scan", "", 1), [9.0, 10.0, 400.0], "lmdb"),
        Outcome(Row("as asked", "scan", "", 0.5), [0.5], "lmdb"),
        Outcome(Row("far behind", "scan", "", 1.5), [0.01], "lmdb"),
        Outcome(Row("no ratio", "compact", "", 10, None, most=True), [11.0], ""),
        Outcome(Row("not there", "scan", "", 1), [], ""),
    ]
    assert plot.goals_chart(outcomes).splitlines() == [
        "                 0.1         1           10",
        "ahead      10.00             ○           ●",
        "as asked    0.50         ◉   │".rstrip(),
        "far behind  0.01 ●           │ ○",
    ]


def test_the_plot_is_drawn_where_matplotlib_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason=plot.how_to_get_plots() or "")
    figure = Figure("full scan", "events/s", {"evlog": [2.0], "sqlite": [1.0], "lmdb": [4.0]})
    for ending in plot.FORMATS:
        path = tmp_path / f"ratios{ending}"
        plot.save_plot([Report("scan", "all", [figure])], path)
        assert path.stat().st_size > 1000
