"""What intervals cover: simulated with distributions whose mean is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.leaderboard.statistics.intervals import (
    INTERVALS,
    LEVEL,
    RESAMPLES,
    Array,
    interquartile_mean,
)
from benchmarks.tables import markdown_table

SEEDS = (3, 5, 10)
TRIALS = 4000
CEILING = 1.0
DRAWS_FOR_IQM = 1_000_000

IQM = "percentile bootstrap of the IQM"


@dataclass(frozen=True)
class Distribution:
    """Results of runs, as they might be spread over seeds.

    Attributes:
        description: In words.
        draw: Values of a given shape.
        mean: Their true mean.
    """

    description: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], Array]
    mean: float


def _two_modes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 2, shape) + rng.normal(0, 0.2, shape)


def _below_ceiling(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.minimum(rng.normal(CEILING - 0.25, 0.25, shape), CEILING)


DISTRIBUTIONS: Mapping[str, Distribution] = {
    "normal": Distribution("standard normal", lambda rng, shape: rng.normal(0, 1, shape), 0.0),
    "skewed": Distribution(
        "exponential of a normal with σ = 0.5",
        lambda rng, shape: rng.lognormal(0, 0.5, shape),
        float(np.exp(0.125)),
    ),
    "bimodal": Distribution("half around 0, half around 1, σ = 0.2 each", _two_modes, 0.5),
    "ceiling": Distribution(
        "normal, σ = 0.25, cut one σ above its mean",
        _below_ceiling,
        # E min(Z, 1) = 1 - (Φ(1) + φ(1)) of a standard normal Z
        CEILING - 0.25 * float(stats.norm.cdf(1) + stats.norm.pdf(1)),
    ),
}


def simulate(trials: int = TRIALS, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Coverage and mean width of every interval, as JSON has them.

    The interval of the interquartile mean is judged by the distribution's own interquartile mean.

    Args:
        trials: Experiments of each case.
        seeds: Numbers of seeds.
    """
    rng = np.random.default_rng(0)
    rows = []
    for name, distribution in DISTRIBUTIONS.items():
        iqm = float(interquartile_mean(distribution.draw(rng, (DRAWS_FOR_IQM,))))
        for n in seeds:
            samples = distribution.draw(rng, (trials, n))
            for method, bounds in INTERVALS.items():
                low, high = bounds(samples)
                truth = iqm if method == IQM else distribution.mean
                rows.append(
                    {
                        "distribution": name,
                        "seeds": n,
                        "interval": method,
                        "coverage": float(np.mean((low <= truth) & (truth <= high))),
                        "width": round(float(np.mean(high - low)), 4),
                    }
                )
    return {"level": LEVEL, "trials": trials, "resamples": RESAMPLES, "rows": rows}


def worst(result: Mapping[str, Any], seeds: int) -> dict[str, float]:
    """The lowest coverage of each interval over the distributions, at a number of seeds."""
    lowest: dict[str, float] = {}
    for row in result["rows"]:
        if row["seeds"] == seeds:
            lowest[row["interval"]] = min(row["coverage"], lowest.get(row["interval"], 1.0))
    return lowest


def document(result: Mapping[str, Any]) -> str:
    """The page of the simulation, in Markdown."""
    names = list(INTERVALS)
    cells = {(r["distribution"], r["seeds"], r["interval"]): r for r in result["rows"]}
    seeds = sorted({row["seeds"] for row in result["rows"]})
    rows = [
        [name, str(n)]
        + [
            f"{cells[name, n, each]['coverage']:.1%} ({cells[name, n, each]['width']:.2f})"
            for each in names
        ]
        for name in DISTRIBUTIONS
        for n in seeds
    ]
    lowest = [
        [str(n), *(f"{worst(result, n)[each]:.1%}" for each in names), _highest(result, n)]
        for n in seeds
    ]
    error = np.sqrt(result["level"] * (1 - result["level"]) / result["trials"])
    described = "; ".join(f"{name}: {each.description}" for name, each in DISTRIBUTIONS.items())
    return (
        f"# What {result['level']:.0%} intervals cover\n\n"
        f"{result['trials']} simulated experiments a row, {result['resamples']} resamples of each "
        f"bootstrap; the standard error at {result['level']:.0%} is {error:.1%}. {described}.\n\n"
        f"Coverage, and mean width in brackets:\n\n"
        f"{markdown_table(['distribution', 'seeds', *names], rows)}\n\n"
        f"The lowest coverage over the distributions:\n\n"
        f"{markdown_table(['seeds', *names, 'highest of them'], lowest)}\n\n"
        "Made by `python -m benchmarks.leaderboard coverage`.\n"
    )


def _highest(result: Mapping[str, Any], seeds: int) -> str:
    lowest = worst(result, seeds)
    return max(lowest, key=lambda name: lowest[name])
