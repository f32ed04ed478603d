"""What a run spent until it reached a reward: counted in whole rounds, and censored at its end."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.leaderboard.statistics.intervals import Array, Interval, interval

Point = Mapping[str, float]
"""An evaluation: ``reward``, and what had been spent, ``reward_queries`` among it."""


def first_reaching(curve: Sequence[Point], target: float) -> Point | None:
    """The first evaluation after training began whose reward is at least the target."""
    trained = (point for point in curve if point["reward_queries"] > 0)
    return next((point for point in trained if point["reward"] >= target), None)


def queries_to_target(curve: Sequence[Point], target: float) -> float:
    """Reward queries until a run first reached the target; infinite if it never did."""
    point = first_reaching(curve, target)
    return np.inf if point is None else float(point["reward_queries"])


def share_reached(queries: Array) -> float:
    """The share of ``[N]`` runs that reached the target."""
    return float(np.isfinite(queries).mean())


def restricted(queries: Array, budget: float) -> Array:
    """Queries until the target or the budget's end, ``[N]``.

    Their mean is the restricted mean at the budget: the area under the share of runs that have not
    reached the target, since every run is watched until then (Royston & Parmar, 2013).
    """
    return np.minimum(queries, budget)


def times_fewer(baseline: Array, queries: Array, budget: float) -> Interval:
    """How many times fewer queries a method needs than a baseline: geometric mean over the seeds.

    Where the baseline is censored, more than this; where the method is, less.

    Args:
        baseline: ``[N]``, infinite where the target was not reached.
        queries: The method's, ``[N]``, with the same seeds.
        budget: Reward queries of a run.
    """
    ratios = interval(np.log(restricted(baseline, budget) / restricted(queries, budget)))
    mean, low, high = (float(np.exp(each)) for each in (ratios.mean, ratios.low, ratios.high))
    return Interval(mean, low, high, ratios.seeds)
