"""What several seeds say: intervals, tests and ranks. The seed is the unit everywhere.

Pure functions of NumPy arrays. Runs of one seed share the random numbers that are drawn first, so
methods are compared seed by seed.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Array = npt.NDArray[np.float64]

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: The mean.
        low: The lower end; NaN where one value alone gives none.
        high: The upper end.
    """

    mean: float
    low: float
    high: float


def mean_interval(values: Array, level: float = LEVEL) -> Interval:
    """Student's t interval of a mean; `coverage` has what it holds at how many seeds.

    Args:
        values: One value per seed, ``[N]``; paired differences for a comparison.
        level: The coverage that it is made for.
    """
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def sign_flip_p(differences: Array) -> float:
    """Exact two-sided p value of a mean of 0, over all 2^N signs of the paired differences.

    Fisher's randomisation test (The Design of Experiments, 1935, § 21): exact where a difference is
    as likely as its negative.

    Args:
        differences: ``[N]``, at most 20.

    Raises:
        ValueError: There are none, or more.
    """
    if not 1 <= len(differences) <= 20:
        raise ValueError(f"expected 1 to 20 differences, got {len(differences)}")
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
    sums = np.abs(signs @ differences)
    tolerance = 1e-9 * float(np.abs(differences).sum())  # sums differ by their order of adding
    return float(np.mean(sums >= abs(differences.sum()) - tolerance))


def holm(p_values: Array) -> Array:
    """Holm's adjusted p values of a family (Scandinavian Journal of Statistics 6, 1979).

    Args:
        p_values: ``[M]``.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result


def seeds_needed(tests: int, alpha: float = ALPHA) -> int:
    """Fewest seeds with which the smallest p value of a sign-flip test, 2/2^N, passes Holm."""
    return math.ceil(math.log2(2 * tests / alpha) - 1e-12)


def detectable(deviation: float, seeds: int, tests: int) -> float:
    """Mean difference that a family's strictest test finds with a power of 80%.

    Of the t test of normal differences at the level α/M, to which the sign-flip test comes close.

    Args:
        deviation: Standard deviation of the paired differences.
        seeds: N.
        tests: M, size of the family.

    Returns:
        The difference; infinite where the test cannot pass with so few seeds.
    """
    if seeds < seeds_needed(tests) or seeds < 2:
        return math.inf
    bound = float(stats.t.ppf(1 - ALPHA / tests / 2, seeds - 1))

    def lacking(shift: float) -> float:
        return float(stats.nct.sf(bound, seeds - 1, shift)) - POWER

    shift = optimize.brentq(lacking, 0.0, 20.0 + 2 * bound)
    return float(shift) * deviation / math.sqrt(seeds)


@dataclass(frozen=True)
class Reaching:
    """How many queries runs needed to a target.

    Attributes:
        reached: Share of the runs that got there.
        restricted_mean: Mean of the queries until then, those that did not get there counted as
            the whole budget: the mean restricted to the budget, and a lower bound of the mean.
    """

    reached: float
    restricted_mean: float


def first_reaching(queries: Array, rewards: Array, target: float) -> float:
    """Queries of the first whole round at the target; infinite where no round is.

    Args:
        queries: ``[E]``, rising.
        rewards: ``[E]``; NaN where nothing could be measured.
        target: The target.
    """
    at = np.flatnonzero(rewards >= target)
    return float(queries[at[0]]) if len(at) else math.inf


def reaching(until: Array, budget: float) -> Reaching:
    """Sums up runs that all were watched for one budget.

    Everything is censored at one time, so the Kaplan-Meier estimate's area up to the budget is this
    plain mean.

    Args:
        until: Queries to the target, ``[N]``; infinite for a run that did not get there or failed.
        budget: Of every run.
    """
    return Reaching(
        reached=float(np.mean(np.isfinite(until))),
        restricted_mean=float(np.mean(np.minimum(until, budget))),
    )


def rank_stability(
    scores: Array, draws: int = 200, seed: int = 0
) -> list[tuple[int, float, float]]:
    """How far ranks by fewer seeds agree with ranks by all of them.

    Args:
        scores: ``[M, N]``, of methods and seeds.
        draws: Most subsets of seeds of one size.
        seed: Of the choice where there are more.

    Returns:
        For 1 to N seeds: their number, the mean of Kendall's τ-b with the order by all seeds, and
        the share of subsets with the same best method.
    """
    methods, seeds = scores.shape
    if methods < 2:
        return []
    rng = np.random.default_rng(seed)
    means = scores.mean(axis=1)
    curve = []
    for size in range(1, seeds + 1):
        if math.comb(seeds, size) <= draws:
            subsets: Sequence[Sequence[int]] = list(itertools.combinations(range(seeds), size))
        else:
            subsets = [rng.choice(seeds, size, replace=False).tolist() for _ in range(draws)]
        parts = [scores[:, list(subset)].mean(axis=1) for subset in subsets]
        taus = [stats.kendalltau(part, means).statistic for part in parts]
        first = [part.argmax() == means.argmax() for part in parts]
        curve.append((size, float(np.mean(np.nan_to_num(taus))), float(np.mean(first))))
    return curve
