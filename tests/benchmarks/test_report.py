"""The report: tables, plots, and the file that an interrupted run goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from benchmarks import plots, report, results, run
from benchmarks.rows import Row
from benchmarks.suite import Missing, Options, rounds

MACHINE = {"cpu": "one", "cores": 2, "memory GB": 8, "system": "Linux", "python": "3.11"}
MACHINE |= {"java": "17", "wrk": "4", "packages": {"torch": "2"}}
OURS = Row(
    "echo", "batch 1", "torchserve-py", "throughput", "requests/s", "more", (300.0,), "as is", 1
)
THEIRS = replace(OURS, server="torchserve", samples=(100.0, 110.0, 90.0))
SETTINGS = {"quick": False, "seconds": 3.0, "rounds": 3}


def _results(*rows: Row, done: bool = True) -> results.Results:
    kept = results.Results(MACHINE, {"torchserve": "0.12.0"}, SETTINGS)
    kept.suites["echo"] = results.SuiteResult(list(rows), done, 5.0, [0.5], [1.5])
    return kept


def test_table_has_medians_ratios_and_settings() -> None:
    (line,) = (row for row in report.table(_results(OURS, THEIRS)).splitlines() if "90 to" in row)
    assert "| 100 requests/s | 90 to 110 | 3.00 x |" in line
    assert line.endswith("| as is |")


def test_table_says_why_a_server_has_no_figure() -> None:
    broken = replace(THEIRS, samples=(), problem="no | memory")
    assert "failed: no / memory" in report.table(_results(OURS, broken))


def test_table_says_whether_a_promise_holds() -> None:
    others = [replace(THEIRS, server=name, samples=(50.0,)) for name in ("mosec", "litserve")]
    text = report.must_hold([OURS, THEIRS, *others])
    (line,) = (row for row in text.splitlines() if "echo batch 1, 1 connection |" in row)
    assert "3.00 x torchserve, 6.00 x mosec, 6.00 x litserve" in line
    assert line.endswith("| aim |")


def test_head_shows_how_busy_the_client_was() -> None:
    driven = replace(OURS, figures={"client cores": (0.25,)})
    text = report.table(_results(driven))
    assert "never busier than 0.25 of a core" in text
    assert "load of the machine 0.5 to 1.5" in text


def test_interrupted_suite_is_named() -> None:
    assert "Interrupted" in report.table(_results(OURS, done=False))


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert results.read(path) is None
    _results(OURS, THEIRS).write(path)
    read = results.read(path)
    assert read is not None
    assert read.rows() == [OURS, THEIRS]
    assert read.suites["echo"].done


def test_pictures_have_a_line_for_each_server() -> None:
    many = [replace(row, load=load) for row in (OURS, THEIRS) for load in (1, 16, 64)]
    seen = [replace(row, figures={"p50 ms": (0.2,), "p99 ms": (9.0,)}) for row in many]
    (picture,) = plots.pictures(seen).values()
    tags = [one.tag.rpartition("}")[2] for one in ElementTree.fromstring(picture).iter()]
    assert tags.count("polyline") == 6
    assert tags.count("circle") == 18
    assert plots.pictures([OURS, THEIRS]) == {}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.0, 10.0, [1, 2, 5, 10]), (0.1, 900.0, [0.1, 1, 10, 100])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert plots.ticks(low, high) == pytest.approx(expected)


def test_rounds_take_turns_and_stop_when_the_budget_is_spent() -> None:
    options = Options(("a", "b"), False, 3, 1.0, budget=1000.0)
    assert list(rounds(options)) == [(1, ("a", "b")), (2, ("b", "a")), (3, ("a", "b"))]
    assert [number for number, _ in rounds(replace(options, budget=0.0))] == [1]


def test_only_errors_of_ours_fail_the_run() -> None:
    bad = {"errors": (1.0,)}
    assert run._failures([OURS, replace(THEIRS, figures=bad, problem="x")]) == []
    assert run._failures([replace(OURS, figures=bad)]) != []
    assert run._failures([replace(OURS, samples=(), problem="x")]) != []


def test_every_suite_has_the_one_function() -> None:
    from importlib import import_module

    for name in run.SUITES:
        assert callable(import_module(f"benchmarks.suites.{name}").run)


def test_what_is_missing_ends_its_suite_alone_and_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(options: Options) -> Iterator[Row]:
        raise Missing("no such thing. Cure: get one")

    def something(options: Options) -> Iterator[Row]:
        yield OURS

    suites = {"benchmarks.suites.echo": nothing, "benchmarks.suites.start": something}
    monkeypatch.setattr(run, "import_module", lambda name: SimpleNamespace(run=suites[name]))
    line = ["--suites", "echo", "start", "--servers", "aiohttp (bare)", "--out", str(tmp_path)]
    assert run.main(line) == 1
    read = results.read(tmp_path / "results.json")
    assert read is not None
    assert read.suites["echo"].problem == "no such thing. Cure: get one"
    assert read.suites["start"].rows == [OURS]
    assert "no such thing" in (tmp_path / "table.md").read_text()


def test_resumed_run_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def suite(options: Options) -> Iterator[Row]:
        asked.append(options.budget)
        yield OURS

    monkeypatch.setattr(run, "import_module", lambda name: SimpleNamespace(run=suite))
    line = ["--servers", "aiohttp (bare)", "--out", str(tmp_path), "--resume", "--suites"]
    assert run.main([*line, "echo"]) == 0
    assert run.main([*line, "echo", "start"]) == 0
    assert len(asked) == 2
    assert run.main([*line, "echo", "--rounds", "9"]) == 0
    assert len(asked) == 3


def test_interrupted_run_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def suite(options: Options) -> Iterator[Row]:
        yield OURS
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "import_module", lambda name: SimpleNamespace(run=suite))
    line = ["--servers", "aiohttp (bare)", "--out", str(tmp_path), "--suites", "echo"]
    assert run.main(line) == 130
    assert "--resume" in capsys.readouterr().out
    read = results.read(tmp_path / "results.json")
    assert read is not None
    assert read.rows() == [OURS]
    assert not read.suites["echo"].done
    assert "Interrupted" in (tmp_path / "table.md").read_text()


def test_no_suite_begins_once_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def suite(options: Options) -> Iterator[Row]:
        monkeypatch.setattr(run.time, "monotonic", lambda: float("inf"))
        yield OURS

    monkeypatch.setattr(run, "import_module", lambda name: SimpleNamespace(run=suite))
    line = ["--servers", "aiohttp (bare)", "--out", str(tmp_path), "--suites", "echo", "start"]
    assert run.main(line) == 1
    assert "left out: start. Cure: --resume" in capsys.readouterr().err
