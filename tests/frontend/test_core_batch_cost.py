"""What a batch is thought to cost, by what batches did cost."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts_frontend.core.batch_cost import BatchCost


def line(size: int) -> float:
    return 0.004 + 0.0005 * size


def learned(most: int, *sizes: int, times: int = 20) -> BatchCost:
    cost = BatchCost(most)
    for _ in range(times):
        for size in sizes:
            cost.observe(size, line(size))
    return cost


def test_nothing_costs_anything_before_it_was_seen() -> None:
    assert BatchCost(8).mean(5) == 0.0


def test_what_was_not_seen_lies_on_the_line() -> None:
    cost = learned(64, 1, 4, 20, 32)
    for size in (1, 2, 3, 4, 10, 20, 32, 64):
        assert cost.mean(size) == pytest.approx(line(size), rel=0.03)


def test_one_size_tells_that_larger_batches_cost_no_less_and_small_ones_their_share() -> None:
    cost = learned(32, 8)
    assert cost.mean(32) == pytest.approx(line(8))
    assert line(8) / 8 <= cost.mean(1) <= line(8)


def test_a_knee_is_followed() -> None:
    """Twice as dear beyond 16, as when a device is full: no line tells that."""
    cost = BatchCost(32)
    for _ in range(20):
        for size in (4, 8, 16, 24, 32):
            cost.observe(size, 0.01 if size <= 16 else 0.02)
    assert cost.mean(8) == pytest.approx(0.01, rel=0.05)
    assert cost.mean(16) == pytest.approx(0.01, rel=0.05)
    assert cost.mean(32) == pytest.approx(0.02, rel=0.05)


def test_a_single_slow_batch_moves_little() -> None:
    cost = learned(32, 1, 8, 32)
    cost.observe(8, 10.0)
    assert cost.mean(8) < 1.3 * line(8)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_model_that_changes_its_pace_is_followed(factor: float) -> None:
    cost = learned(32, 1, 8, 32)
    for _ in range(100):
        cost.observe(8, line(8))
    for _ in range(40):
        cost.observe(8, line(8) * factor)
    # Sizes that were not seen since moved along: nobody has to run into it at each of them.
    for size in (1, 8, 32):
        assert cost.mean(size) == pytest.approx(line(size) * factor, rel=0.1)


def test_noise_averages_out() -> None:
    rng = random.Random(1)
    cost = BatchCost(32)
    for _ in range(400):
        size = rng.choice((1, 2, 3, 5, 8, 13, 20, 32))
        cost.observe(size, line(size) * rng.uniform(0.8, 1.2))
    for size in (1, 4, 16, 32):
        assert cost.mean(size) == pytest.approx(line(size), rel=0.25)


@given(
    most=st.integers(1, 300),
    seen=st.lists(st.tuples(st.integers(1, 300), st.floats(1e-6, 100.0)), min_size=1, max_size=40),
)
def test_a_larger_batch_is_never_thought_to_be_cheaper(
    most: int, seen: list[tuple[int, float]]
) -> None:
    cost = BatchCost(most)
    for size, seconds in seen:
        cost.observe(min(size, most), seconds)
    costs = [cost.mean(size) for size in range(1, most + 1)]
    assert all(one > 0 for one in costs)
    assert all(more >= one * (1 - 1e-9) for one, more in itertools.pairwise(costs))
