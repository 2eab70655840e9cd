"""Rows of the benchmark: medians, ratios, what belongs together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.rows import Better, Row, failed, from_json, merge, times_better, to_json

ROW = Row("echo", "batch 1", "ours", "throughput", "requests/s", "more", (3.0, 1.0, 2.0), "", 64)


def test_median_is_the_middle_of_the_samples() -> None:
    assert ROW.median == 2.0
    assert replace(ROW, samples=()).median is None


def test_figures_are_medians_but_errors_are_summed() -> None:
    row = replace(ROW, figures={"p99 ms": (5.0, 1.0, 2.0), "errors": (0.0, 3.0, 1.0)})
    assert row.figure("p99 ms") == 2.0
    assert row.figure("errors") == 4.0
    assert row.figure("p50 ms") is None


def test_rows_of_one_key_become_one() -> None:
    first = replace(ROW, samples=(1.0,), figures={"p99 ms": (9.0,)})
    second = replace(ROW, samples=(2.0,), figures={"p99 ms": (8.0,), "errors": (0.0,)})
    other = replace(ROW, load=1)
    merged = merge([first, other, second])
    assert [row.load for row in merged] == [64, 1]
    assert merged[0].samples == (1.0, 2.0)
    assert merged[0].figures == {"p99 ms": (9.0, 8.0), "errors": (0.0,)}


def test_a_round_that_failed_keeps_what_others_measured() -> None:
    (merged,) = merge([ROW, failed(ROW, "it died")])
    assert merged.samples == ROW.samples
    assert merged.problem == "it died"


@pytest.mark.parametrize(
    ("better", "ours", "theirs", "expected"),
    [("more", 30.0, 10.0, 3.0), ("less", 30.0, 10.0, 1 / 3), ("more", 30.0, 0.0, None)],
)
def test_ratio_is_above_one_where_ours_is_better(
    better: Better, ours: float, theirs: float, expected: float | None
) -> None:
    mine = replace(ROW, better=better, samples=(ours,))
    assert times_better(mine, replace(mine, samples=(theirs,))) == expected


def test_nothing_measured_has_no_ratio() -> None:
    assert times_better(ROW, replace(ROW, samples=())) is None


def test_failure_keeps_the_end_of_the_reason() -> None:
    row = failed(ROW, "Traceback\n  line 1\n\n  line 2\n\x1b[36mValueError\x1b[0m: why\n")
    assert row.median is None
    assert row.problem == "line 1 | line 2 | ValueError: why"


def test_json_and_back_is_the_same_row() -> None:
    row = replace(ROW, figures={"p50 ms": (1.0, 2.0)}, problem="late")
    assert from_json(to_json(row)) == row
