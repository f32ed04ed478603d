"""Intervals of a mean from a few seeds, many samples at a time."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

Bounds = tuple[Array, Array]
"""Low and high ends, ``[...]`` each."""

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval.

    Attributes:
        mean: The mean.
        low: The interval's low end; NaN with fewer than two seeds.
        high: Its high end.
        seeds: How many seeds it is of.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def alike(self) -> bool:
        """Whether all seeds gave the same, such that there is no spread to make an interval of."""
        return self.seeds > 1 and bool(np.isclose(self.low, self.high, rtol=1e-9, atol=0))

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside; False where there is no interval, or no spread."""
        return not self.alike and (self.low > value or self.high < value)


def interval(values: Array) -> Interval:
    """The mean of ``[N]`` values and its interval by Student's t.

    Without values the mean is NaN as well.
    """
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = student_t(values) if len(values) > 1 else (np.array(np.nan), np.array(np.nan))
    return Interval(float(values.mean()), float(low), float(high), len(values))


def student_t(samples: Array) -> Bounds:
    """Student's interval of the mean, mean ± t s / √N.

    Args:
        samples: ``[..., N]``, N at least 2.
    """
    n = samples.shape[-1]
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * samples.std(-1, ddof=1) / np.sqrt(n)
    mean = samples.mean(-1)
    return mean - half, mean + half


def percentile_bootstrap(samples: Array) -> Bounds:
    """The percentile bootstrap of the mean (Efron & Tibshirani, 1993, section 13.3)."""
    return _bootstrap(samples, np.mean, "percentile")


def percentile_bootstrap_of_iqm(samples: Array) -> Bounds:
    """The percentile bootstrap of the interquartile mean, as Agarwal et al. (2021) recommend."""
    return _bootstrap(samples, interquartile_mean, "percentile")


def bca_bootstrap(samples: Array) -> Bounds:
    """The bias-corrected and accelerated bootstrap of the mean (Efron, 1987)."""
    return _bootstrap(samples, np.mean, "BCa")


def interquartile_mean(samples: Array, axis: int = -1) -> Array:
    """The mean without the lowest and the highest quarter, of which whole values are left out."""
    trimmed: Array = stats.trim_mean(samples, 0.25, axis=axis)
    return trimmed


def _bootstrap(samples: Array, statistic: Callable[..., Array], method: str) -> Bounds:
    """Bounds of ``[..., N]`` samples; a sample of equal values has an interval without width."""
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # equal values: see below
        found = stats.bootstrap(
            (samples,),
            statistic,
            axis=-1,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=50,
            confidence_level=LEVEL,
            method=method,
            rng=np.random.default_rng(0),
        ).confidence_interval
    equal = np.ptp(samples, axis=-1) == 0
    value = statistic(samples, axis=-1)
    return np.where(equal, value, found.low), np.where(equal, value, found.high)


INTERVALS: Mapping[str, Callable[[Array], Bounds]] = {
    "Student t": student_t,
    "percentile bootstrap of the mean": percentile_bootstrap,
    "percentile bootstrap of the IQM": percentile_bootstrap_of_iqm,
    "BCa bootstrap of the mean": bca_bootstrap,
}
"""The intervals that are compared; `interval` gives the first."""
