"""Which learning rate is tried next, and which was best: the same number of tries for everyone."""

from collections.abc import Mapping

import numpy as np

Scores = Mapping[int, float]
"""What each rate reached, by its number of steps above the middle; NaN for one that failed."""

FIRST = (-1, 0, 1)


def next_steps(scores: Scores, rates: int) -> tuple[int, ...]:
    """Rates to try now, as steps above the middle; none when there were enough.

    First the middle and its neighbours; then one at a time beyond the end of the grid that the best
    rate is at, or else nearest to (the lower one where both are as near).

    Args:
        scores: What was reached so far.
        rates: How many are tried in all.
    """
    missing = tuple(step for step in FIRST[:rates] if step not in scores)
    if missing or len(scores) >= rates:
        return missing
    low, high, chosen = min(scores), max(scores), best_step(scores)
    return (low - 1,) if chosen - low <= high - chosen else (high + 1,)


def best_step(scores: Scores) -> int:
    """The rate that reached most; the lower of two that reached the same."""
    return max(sorted(scores), key=lambda s: -np.inf if np.isnan(scores[s]) else scores[s])


def is_inside(scores: Scores) -> bool:
    """Whether a lower and a higher rate than the best were tried."""
    return min(scores) < best_step(scores) < max(scores)
