"""The confirmatory test: exact, paired by seed, and corrected for the number of methods."""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from benchmarks.leaderboard.statistics.intervals import Array
from diffusion_gym.errors import InvalidInputError

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 20
"""All 2ᴺ signs are gone through."""


def sign_flip(differences: Array) -> float:
    """Two-sided p-value of paired differences whose signs are exchangeable under the hypothesis.

    Exact: the share of all 2ᴺ choices of signs whose mean is at least as far from zero (Fisher,
    1935, section 21).

    Args:
        differences: ``[N]``, one per seed.

    Raises:
        InvalidInputError: There are none, or more than `MOST_SEEDS`.
    """
    n = len(differences)
    if not 1 <= n <= MOST_SEEDS:
        raise InvalidInputError(f"differences: expected 1 to {MOST_SEEDS} seeds, got {n}")
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums - difference, sums + difference])
    rounding = 1e-12 * np.abs(differences).sum()
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - rounding))


def holm(p_values: Sequence[float]) -> Array:
    """Adjusted p-values of a family, ``[M]`` (Holm, 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


def smallest_p(seeds: int) -> float:
    """The smallest p-value that `sign_flip` can give, 2 / 2ᴺ."""
    return float(2.0 ** (1 - seeds))


def needed_seeds(methods: int) -> int:
    """The fewest seeds with which one of so many methods can be told from the baseline."""
    return int(np.ceil(1 + np.log2(methods / ALPHA)))


def detectable_effect(differences: Array, methods: int) -> float:
    """The true mean difference that a paired t test at α / M would find in 80% of experiments.

    The t test's power stands for the exact test's, for which it would take an assumed distribution.
    Findings of the wrong sign, below 1e-6 here, are not counted.

    Args:
        differences: ``[N]``, N at least 2; their standard deviation is taken as the true one.
        methods: M, the size of the family.
    """
    n = len(differences)
    critical = stats.t.ppf(1 - ALPHA / methods / 2, n - 1)

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, n - 1, shift) - POWER)

    shift = optimize.brentq(missing, 0.0, 2 * critical + 2)
    return float(shift * differences.std(ddof=1) / np.sqrt(n))
