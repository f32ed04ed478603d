"""Which methods no other one beats in both of two things."""

import numpy as np

from benchmarks.leaderboard.statistics.intervals import Array


def pareto_front(gain: Array, cost: Array) -> list[int]:
    """The places of those that none has more gain than at no more cost, or less cost for no less.

    Args:
        gain: ``[N]``, more is better.
        cost: ``[N]``, less is better; places with a NaN in either are not on the front.

    Returns:
        Places in ascending cost.
    """
    known = [int(k) for k in np.flatnonzero(~np.isnan(gain) & ~np.isnan(cost))]
    front = [
        k
        for k in known
        if not any(
            gain[j] >= gain[k] and cost[j] <= cost[k] and (gain[j] > gain[k] or cost[j] < cost[k])
            for j in known
        )
    ]
    return sorted(front, key=lambda k: (cost[k], gain[k]))
