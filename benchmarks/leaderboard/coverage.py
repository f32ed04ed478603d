"""How often the intervals hold the truth: ``python -m benchmarks.leaderboard coverage``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.leaderboard.statistics import LEVEL, Array

SEEDS = (3, 5, 10)
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]


def _normal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.normal(size=shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.exponential(size=shape)


def _bimodal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.choice([0.0, 1.0], p=[0.3, 0.7], size=shape) + 0.1 * rng.normal(size=shape)


def _censored(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return np.minimum(rng.exponential(size=shape), 1.0)


POPULATIONS: Mapping[str, tuple[Draw, float]] = {
    "normal": (_normal, 0.0),
    "skewed (exponential)": (_skewed, 1.0),
    "bimodal (3 in 10 fail)": (_bimodal, 0.7),
    "censored (exponential cut at its mean)": (_censored, 1 - float(np.exp(-1))),
}
"""How seeds may be distributed, with the true mean."""


def t_covers(samples: Array, truth: float) -> Array:
    """Which samples' t intervals hold the truth, ``[R]``.

    Args:
        samples: ``[R, N]``.
        truth: The population's mean.
    """
    half = stats.t.ppf((1 + LEVEL) / 2, samples.shape[1] - 1) * stats.sem(samples, axis=1)
    distance: Array = np.abs(samples.mean(axis=1) - truth)
    return np.asarray(distance <= half, dtype=np.float64)


def percentile_covers(
    samples: Array, truth: float, rng: np.random.Generator, resamples: int = 500
) -> Array:
    """The same of the percentile bootstrap, which the t interval is compared with."""
    count, seeds = samples.shape
    covered = np.empty(count)
    for row, sample in enumerate(samples):
        means = sample[rng.integers(seeds, size=(resamples, seeds))].mean(axis=1)
        low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        covered[row] = low <= truth <= high
    return covered


def simulate(repeats: int, seed: int = 0) -> list[dict[str, Any]]:
    """Coverage of both intervals, of every population at every number of seeds.

    Args:
        repeats: Simulated experiments of each.
        seed: Of the simulation.
    """
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    for name, (draw, truth) in POPULATIONS.items():
        for seeds in SEEDS:
            samples = draw(rng, (repeats, seeds))
            few = samples[: max(1, repeats // 10)]
            rows.append(
                {
                    "population": name,
                    "seeds": seeds,
                    "repeats": repeats,
                    "t": float(t_covers(samples, truth).mean()),
                    "percentile_bootstrap": float(percentile_covers(few, truth, rng).mean()),
                }
            )
    return rows
