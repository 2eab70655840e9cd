"""The plan under a latency target, told the time by hand."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ts_frontend.core.latency_target import LatencyTarget

SIZE = 8


def a_target(
    seconds: float = 0.1, *, a: float = 0.010, b: float = 0.001, size: int = SIZE, workers: int = 1
) -> LatencyTarget:
    """One that knows that a batch of n costs a + b * n seconds, and has learned no margin."""
    target = LatencyTarget(seconds, size)
    for worker in range(workers):
        target.join(worker)
    for _ in range(10):
        for one in (1, (size + 1) // 2, size):
            target.sent(0, [0.0] * one, 0.0)
            target.done(0, one, a + b * one, 0.0)
    target.margin = 1.0
    return target


def test_an_idle_worker_takes_what_waits_where_nobody_is_shut_out() -> None:
    choice = a_target().choose(1.0, [0.999, 1.0])
    assert (choice.drop, choice.take, choice.why) == (0, 2, "idle_worker")


def test_a_full_batch_leaves_and_the_rest_stays() -> None:
    choice = a_target().choose(1.0, [0.999] * 20)
    assert (choice.drop, choice.take, choice.why) == (0, SIZE, "full")


def test_a_batch_is_only_as_large_as_its_oldest_request_allows() -> None:
    target = a_target(a=0.0, b=0.004)
    left = 0.0145  # enough for three
    choice = target.choose(1.0, [1.0 - target.budget + left, *[0.99] * 4])
    assert (choice.drop, choice.take, choice.why) == (0, 3, "deadline")


def test_who_is_late_anyway_is_dropped() -> None:
    target = a_target()
    late = 1.0 - target.budget
    choice = target.choose(1.0, [late, late, 0.999, 0.999])
    assert (choice.drop, choice.take) == (2, 2)
    assert target.choose(1.0, [late, late]).drop == 2


def test_a_worker_that_was_idle_drops_nobody() -> None:
    target = a_target(a=1.0)  # nothing can be in time
    choice = target.choose(1.0, [1.0], idle=True)
    assert (choice.drop, choice.take) == (0, 1)


def test_one_request_does_not_make_many_late() -> None:
    """The oldest could be in time alone; the others can not wait for another batch behind it."""
    target = a_target(0.05, a=0.02, b=0.0005)
    oldest = 1.0 - target.budget + 0.0206
    others = [1.0 - target.budget + 0.0250] * 7
    choice = target.choose(1.0, [oldest, *others])
    assert (choice.drop, choice.take) == (1, 7)


def test_a_batch_waits_where_it_would_shut_the_door() -> None:
    """Whoever comes behind it could not be answered in time: better they come along."""
    target = a_target(0.05, a=0.03, b=0.0005)
    target.rate = 500.0
    choice = target.choose(1.0, [1.0], idle=True)
    assert choice.take == 0
    assert choice.until is not None
    assert 1.0 < choice.until <= 1.0 + target.budget - 0.0305
    later = target.choose(choice.until, [1.0, 1.005], idle=True)
    assert (later.take, later.why) == (2, "deadline")


def test_it_does_not_wait_for_those_who_are_not_expected() -> None:
    target = a_target(0.05, a=0.03, b=0.0005)
    target.rate = 1.0
    assert target.choose(1.0, [1.0], idle=True).take == 1


def test_several_workers_begin_at_even_distances() -> None:
    target = a_target(0.05, a=0.03, b=0.0005, workers=3)
    target.rate = 1000.0
    target.sent(0, [1.0], 1.0)
    target.rate = 1000.0
    choice = target.choose(1.001, [1.001], idle=True)
    assert choice.take == 0
    assert choice.until == pytest.approx(1.0 + 0.0305 / 3, abs=0.001)


def test_admits_until_the_plan_is_full() -> None:
    target = a_target(0.1)  # 18 ms for a full batch: five of them, the last must be done in 97
    target.sent(0, [1.0] * SIZE, 1.0)
    admitted = 0
    while target.admits(1.0, admitted, 0) and admitted < 1000:
        admitted += 1
    assert admitted in range(4 * SIZE, 5 * SIZE)


def test_an_idle_worker_turns_nobody_away() -> None:
    target = a_target(a=1.0)
    assert target.admits(1.0, 0, 1)
    target.sent(0, [1.0], 1.0)
    assert not target.admits(1.0, 0, 0)


def test_many_who_come_leave_no_room_for_one_who_would_make_their_batch_small() -> None:
    """Long before the worker is free, one fits only into a small batch; where enough for a full
    one come later, that is the better one."""
    target = a_target(0.05, a=0.02, b=0.0005, size=32)
    target.sent(0, [1.0], 1.0)
    target.rate = 0.0
    assert target.admits(1.0, 0, 0)
    target.rate = 2000.0
    assert not target.admits(1.0, 0, 0)
    assert target.admits(1.018, 0, 0)


def test_nothing_is_planned_with_a_batch_that_takes_longer_than_the_target() -> None:
    target = a_target(0.05, a=0.0, b=0.01)
    assert target.size == 4  # the budget is 48 ms


def test_a_late_worker_is_thought_to_be_late_on() -> None:
    target = a_target()
    target.sent(0, [1.0], 1.0)
    assert target.next_free(1.005) == pytest.approx(1.011, abs=0.001)
    assert target.next_free(1.111) == pytest.approx(1.211, abs=0.002)
    target.leave(0)
    assert target.next_free(1.2) == 1.2


def test_late_answers_raise_the_margin_and_good_ones_lower_it() -> None:
    target = a_target()
    target.sent(0, [0.0] * SIZE, 1.0)
    assert target.done(0, SIZE, 0.018, 1.018) == [0.0] * SIZE
    target.settle([0.0] * SIZE, 1.019)
    raised = target.margin
    assert raised > 1.0
    for _ in range(20):
        target.settle([2.0] * SIZE, 2.018)
    assert 0.9 < target.margin < raised


times = st.floats(0.0, 0.2)


@given(
    seconds=st.floats(0.005, 0.2),
    a=st.floats(0.0005, 0.05),
    b=st.floats(0.00001, 0.01),
    size=st.integers(1, 40),
    workers=st.integers(1, 4),
    rate=st.floats(0.0, 5000.0),
    ages=st.lists(times, min_size=1, max_size=120),
    idle=st.booleans(),
)
def test_what_any_choice_keeps_to(
    seconds: float,
    a: float,
    b: float,
    size: int,
    workers: int,
    rate: float,
    ages: list[float],
    idle: bool,
) -> None:
    target = a_target(seconds, a=a, b=b, size=size, workers=workers)
    target.rate = rate
    now = 100.0
    arrived = sorted(now - age for age in ages)
    choice = target.choose(now, arrived, idle=idle)
    assert 0 <= choice.take <= size
    assert 0 <= choice.drop <= len(arrived) - choice.take
    assert not (idle and choice.drop)
    if choice.until is not None:
        # It waits only where nothing is lost by it, and never past the last moment.
        assert (choice.drop, choice.take) == (0, 0)
        assert now < choice.until <= arrived[0] + target.budget - target.cost.mean(1)
        assert len(arrived) < size
    elif not choice.take:
        assert choice.drop == len(arrived)


@given(
    seconds=st.floats(0.01, 0.2),
    a=st.floats(0.001, 0.05),
    b=st.floats(0.00001, 0.005),
    rate=st.floats(0.0, 5000.0),
    workers=st.integers(1, 4),
    gaps=st.lists(st.floats(0.00001, 0.02), min_size=1, max_size=60),
)
def test_whoever_waits_always_leaves(
    seconds: float, a: float, b: float, rate: float, workers: int, gaps: list[float]
) -> None:
    """An idle worker that does as it is told, with any arrivals: the first one leaves in time if
    it can."""
    target = a_target(seconds, a=a, b=b, workers=workers)
    assume(target.budget > target.cost.mean(1))
    target.rate = rate
    now = first = 100.0
    arrived = [first]
    following = iter(gaps)
    next_one = now + next(following)
    while True:
        choice = target.choose(now, arrived, idle=True)
        if choice.until is None:
            break
        assert choice.until > now
        if next_one < choice.until:
            now = next_one
            arrived.append(now)
            next_one = now + next(following, float("inf"))
        else:
            now = choice.until
    assert choice.take >= 1
    assert now + target.cost.mean(1) <= first + target.budget + 1e-9
