"""What must hold, against rows of which the answer is known."""

from __future__ import annotations

from benchmarks.rows import Row
from benchmarks.verdicts import (
    OURS,
    Condition,
    Promise,
    by_key,
    of_ours,
    promises,
    ratio,
)

WHERE = ("echo", "batch 1", 64.0, "throughput")


def _rows(ours: float, theirs: float, **figures: float) -> list[Row]:
    suite, workload, load, metric = WHERE
    seen = {name.replace("_", " "): (value,) for name, value in figures.items()}
    return [
        Row(suite, workload, OURS, metric, "1/s", "more", (ours,), "", load, figures=seen),
        Row(suite, workload, "mosec", metric, "1/s", "more", (theirs,), "", load),
    ]


def _condition(floor: float | None, aim: float | None) -> Condition:
    return Condition("x mosec", ratio(*WHERE, "mosec"), floor, aim)


def test_a_ratio_is_judged_by_floor_and_aim() -> None:
    condition = _condition(1.2, 2.0)
    assert condition.word(by_key(_rows(20, 10))) == "aim"
    assert condition.word(by_key(_rows(15, 10))) == "floor"
    assert condition.word(by_key(_rows(11, 10))) == "not met"
    assert condition.word({}) == "not measured"


def test_an_aim_without_a_floor_is_never_missed_altogether() -> None:
    assert _condition(None, 2.0).word(by_key(_rows(1, 10))) == "floor"


def test_less_is_better_where_it_says_so() -> None:
    tail = Condition("p99 / mean", of_ours(*WHERE, "p99 ms", "mean ms"), 4, 3, "less")
    assert tail.word(by_key(_rows(1, 1, p99_ms=5, mean_ms=2))) == "aim"
    assert tail.word(by_key(_rows(1, 1, p99_ms=7, mean_ms=2))) == "floor"
    assert tail.word(by_key(_rows(1, 1, p99_ms=9, mean_ms=2))) == "not met"


def test_no_errors_is_an_aim_that_holds_at_nought() -> None:
    none = Condition("errors", of_ours(*WHERE, "errors"), 0, 0, "less")
    assert none.word(by_key(_rows(1, 1, errors=0))) == "aim"
    assert none.word(by_key(_rows(1, 1, errors=1))) == "not met"


def test_a_promise_is_as_good_as_its_worst_condition() -> None:
    rows = by_key(_rows(15, 10))
    missing = Condition("x litserve", ratio(*WHERE, "litserve"), 1, None)
    assert Promise("", (_condition(1, None), _condition(1.2, 2))).word(rows) == "floor"
    assert Promise("", (_condition(1, None), _condition(9, 9))).word(rows) == "not met"
    assert Promise("", (_condition(1, None), missing)).word(rows) == "not measured"
    assert Promise("", (_condition(9, 9), missing)).word(rows) == "not met"


def test_goodput_under_overload_is_a_share_of_the_peak() -> None:
    name = "20 + 0.5 n ms, target 50 ms"
    (promise,) = (one for one in promises() if one.workload == f"goodput, {name}, 3 x capacity")
    goodput = {30: 30.0, 70: 70.0, 95: 100.0, 300: 95.0}
    rows = [
        Row("openloop", name, OURS, "goodput", "1/s", "more", (seen,), "", load)
        for load, seen in goodput.items()
    ]
    assert promise.conditions[0].value(by_key(rows)) == 0.95
    assert promise.word(by_key(rows)) == "floor"
    assert promise.word(by_key(rows[:3])) == "not measured"


def test_each_promise_can_be_missed_and_kept_by_the_rows_it_names() -> None:
    for promise in promises():
        assert promise.word({}) == "not measured"
        assert promise.conditions
        assert all(c.floor is not None or c.aim is not None for c in promise.conditions)
