"""How stable an order of methods is against the number of seeds."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from benchmarks.leaderboard.statistics.intervals import Array


@dataclass(frozen=True)
class Stability:
    """What an order from fewer seeds has in common with the one from all.

    Attributes:
        seeds: How many seeds the order is from.
        tau: Kendall's τ_b between both orders, the mean over all choices of so many seeds.
        same_leader: The share of choices that have the same best method.
    """

    seeds: int
    tau: float
    same_leader: float


def rank_stability(scores: Array) -> list[Stability]:
    """The curve over 1 … N seeds, over all choices of seeds, which are the same for every method.

    Seeds are taken out of those that the whole order is from, so that the curve ends at 1 and is
    too good near its end.

    Args:
        scores: ``[M, N]`` by method and seed, M at least 2.
    """
    count = scores.shape[1]
    final = scores.mean(1)
    found = []
    for n in range(1, count + 1):
        means = [scores[:, chosen].mean(1) for chosen in combinations(range(count), n)]
        taus = [stats.kendalltau(each, final).statistic for each in means]
        leaders = [each.argmax() == final.argmax() for each in means]
        found.append(Stability(n, float(np.mean(taus)), float(np.mean(leaders))))
    return found
