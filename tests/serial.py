"""Whether calls that ran at the same time could have run one after another: a search for an order
that explains every answer and where things ended (Wing and Gong's test of linearizability)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """Something that happened at once, at a moment that nobody saw.

    Args:
        begin, end: readings of one clock between which the moment lies.
        apply: the state behind it; None where its answer could not have been given.
        after: the number of a step that came earlier, besides those that had ended.
    """

    begin: int
    end: int
    apply: Callable[[S], S | None]
    after: int | None = None


def serializable(
    steps: Sequence[Step[S]], start: S, finish: object, shown: Callable[[S], object]
) -> bool:
    """Tell whether some order of the steps leads from ``start`` to a state that is ``shown`` as
    ``finish``."""
    seen: set[tuple[int, S]] = set()
    stack = [(0, start)]
    everything = (1 << len(steps)) - 1
    while stack:
        done, state = stack.pop()
        if done == everything and shown(state) == finish:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        open_steps = [n for n in range(len(steps)) if not done >> n & 1]
        first_end = min((steps[n].end for n in open_steps), default=0)
        # The earliest to end is tried first: it is the likeliest to have happened.
        for n in sorted(open_steps, key=lambda n: -steps[n].end):
            step = steps[n]
            early = step.after is not None and not done >> step.after & 1
            if step.begin > first_end or early:
                continue
            following = step.apply(state)
            if following is not None:
                stack.append((done | 1 << n, following))
    return False
