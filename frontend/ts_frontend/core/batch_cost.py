"""What a batch costs by its size: running estimates of one model version, from its own batches.

`latency_target` plans with them. Sizes share bins that grow with them; in between, the estimate is
interpolated, so that any shape of cost is followed, steps and knees included.
"""

from __future__ import annotations

from bisect import bisect_left

_EXACT = 8  # sizes up to this one have a bin each, above there are four to a doubling
_STEP = 2**0.25
_MEMORY = 8  # observations: an estimate follows by 1/8 of each once it has seen so many
# What slows one size down mostly slows them all: the estimate of a size moves along with others,
# in full once so many batches have gone by without one of its own.
_STALE = 64
_OUTLIER = 2.0  # an observation counts as at most so many times the estimate
# Sizes squared: what the slope is shrunk by while only sizes close together were seen. Two noisy
# batches of 1 and 2 must not tell what 32 cost; that a larger one costs no more is soon corrected.
_RIDGE = 0.5


class BatchCost:
    """Estimates in seconds; 0 while nothing was seen.

    Args:
        most: the largest batch there is.
    """

    def __init__(self, most: int) -> None:
        self._bounds = _bins(most)
        self._counts = [0] * len(self._bounds)
        self._sizes = [0.0] * len(self._bounds)  # mean size in each bin
        self._seconds = [0.0] * len(self._bounds)
        self._seen_at = [0] * len(self._bounds)  # counted in batches
        self._batches = 0
        self._points: tuple[list[float], list[float]] = ([], [])
        self._slope = 0.0
        self._known: dict[int, float] = {}

    @property
    def seen(self) -> list[int]:
        """The sizes that stand for what was seen, one for each bin."""
        return [round(size) for size in self._points[0]]

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch that took so long."""
        expected = self.mean(size)
        if expected > 0:
            seconds = min(seconds, _OUTLIER * expected)
        place = bisect_left(self._bounds, size)
        count, before = self._counts[place], self._seconds[place]
        self._counts[place] = count + 1
        weight = 1 / min(count + 1, _MEMORY)
        self._sizes[place] += (size - self._sizes[place]) * weight
        self._seconds[place] += (seconds - before) * weight
        self._batches += 1
        self._seen_at[place] = self._batches
        if before:
            self._drift(self._seconds[place] / before)
        self._refit()

    def _drift(self, factor: float) -> None:
        """Move the estimates along that have not been seen for a while."""
        for place, seen_at in enumerate(self._seen_at):
            stale = min(1.0, (self._batches - seen_at) / _STALE)
            self._seconds[place] *= 1 + (factor - 1) * stale

    def mean(self, size: int) -> float:
        """What a batch of this size is expected to take."""
        known = self._known.get(size)
        if known is None:
            known = self._known[size] = self._interpolate(size)
        return known

    def _interpolate(self, size: int) -> float:
        sizes, seconds = self._points
        if not sizes:
            return 0.0
        at = bisect_left(sizes, size)
        if at == 0:
            # Below what was seen a batch never costs less than its share.
            down = seconds[0] - self._slope * (sizes[0] - size)
            return max(down, seconds[0] * size / sizes[0])
        if at == len(sizes):
            return seconds[-1] + self._slope * (size - sizes[-1])
        part = (size - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
        return seconds[at - 1] + part * (seconds[at] - seconds[at - 1])

    def _refit(self) -> None:
        """The points to interpolate between, and the slope beyond them, that of a line through all.

        A larger batch is never taken for cheaper: what says so is noise.
        """
        self._known = {}
        seen = [place for place, count in enumerate(self._counts) if count]
        sizes = [self._sizes[place] for place in seen]
        seconds: list[float] = []
        for place in seen:
            value = self._seconds[place]
            seconds.append(max(value, seconds[-1]) if seconds else value)
        self._points = (sizes, seconds)
        middle, level = sum(sizes) / len(sizes), sum(seconds) / len(sizes)
        spread = sum((size - middle) ** 2 for size in sizes)
        common = sum((n - middle) * (s - level) for n, s in zip(sizes, seconds, strict=True))
        self._slope = max(0.0, common / (spread + _RIDGE))


def _bins(most: int) -> list[int]:
    """The largest size of each bin."""
    bounds = list(range(1, min(most, _EXACT) + 1))
    edge = float(_EXACT)
    while bounds[-1] < most:
        edge *= _STEP
        bounds.append(min(most, round(edge)))
    return bounds
