"""Signal and noise of gradients from the inner products of several batches' gradients.

The gradient of step i in batch b is G_bi = m_i + e_bi, with the mean m_i (the signal) and an error
e_bi that is independent between batches (the noise).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What is known of T steps' gradients, of one batch each.

    Attributes:
        signal: ⟨m_i, m_j⟩, ``[T, T]``, unbiased: a diagonal entry may be negative.
        noise: E⟨e_i, e_j⟩ of one batch, ``[T, T]``, unbiased.
    """

    signal: Array
    noise: Array

    @property
    def signal_norm(self) -> Array:
        """‖m_i‖, ``[T]``; NaN where the estimate of its square is negative."""
        squares = self.signal.diagonal()
        return np.sqrt(np.where(squares > 0, squares, np.nan))

    @property
    def noise_norm(self) -> Array:
        """√E‖e_i‖², ``[T]``."""
        return np.sqrt(self.noise.diagonal())

    @property
    def cosines(self) -> Array:
        """Cosines of m_i and m_j, ``[T, T]``; NaN where a norm is. Noise may take them beyond 1."""
        norm = self.signal_norm
        return self.signal / np.outer(norm, norm)

    def signal_to_noise(self, weights: Array) -> float:
        """‖Σ P_i m_i‖² / E‖Σ P_i e_i‖² of one batch, for weights P, ``[T]``."""
        return float((weights @ self.signal @ weights) / (weights @ self.noise @ weights))

    def best_weights(self) -> Array:
        """The weights ``[T]`` with the most signal to noise, the largest of them ±1.

        The first generalised eigenvector of signal and noise, with a positive sum.
        """
        _, vectors = linalg.eigh(self.signal, self.noise)
        best = vectors[:, -1]
        return np.asarray(best / np.abs(best).max() * (1 if best.sum() >= 0 else -1))


def moments(inner_products: Array) -> Moments:
    """Signal and noise from all pairs of batches.

    Args:
        inner_products: ⟨G_bi, G_cj⟩, ``[B, T, B, T]`` with B ≥ 2.
    """
    batches = len(inner_products)
    total = inner_products.sum((0, 2))
    same = np.einsum("bibj->ij", inner_products)
    signal = (total - same) / (batches * (batches - 1))
    signal = (signal + signal.T) / 2
    return Moments(signal, same / batches - signal)


def jackknife(
    inner_products: Array, statistic: Callable[[Moments], float | Array]
) -> tuple[Array, Array]:
    """A statistic of the moments and its standard error, which the jackknife over batches gives.

    Args:
        inner_products: As `moments` has them, with B ≥ 3.
        statistic: What is to be known.
    """
    batches = len(inner_products)
    everyone = np.arange(batches)
    without = np.array(
        [
            statistic(moments(inner_products[rest][:, :, rest]))
            for rest in (np.delete(everyone, left_out) for left_out in everyone)
        ]
    )
    error = np.sqrt((batches - 1) / batches * ((without - without.mean(0)) ** 2).sum(0))
    return np.asarray(statistic(moments(inner_products))), error


def cross_validated(inner_products: Array, fit: Callable[[Moments], Array]) -> float:
    """Signal to noise of weights that are fitted to one half of the batches, in the other half.

    Args:
        inner_products: As `moments` has them, with B ≥ 4.
        fit: Makes weights ``[T]`` of moments.

    Returns:
        The ratio of mean signal to mean noise over both ways round.
    """
    half = len(inner_products) // 2
    parts = [moments(inner_products[:half, :, :half]), moments(inner_products[half:, :, half:])]
    signal = noise = 0.0
    for fitted, judged in (parts, parts[::-1]):
        weights = fit(fitted)
        weights = weights / np.abs(weights).max()
        signal += weights @ judged.signal @ weights
        noise += weights @ judged.noise @ weights
    return float(signal / noise)


def measured_weights(found: Moments) -> Array:
    """signal_i / noise_i², ``[T]``: the best weights of steps with parallel signals."""
    signal = np.sqrt(np.clip(found.signal.diagonal(), 0, None))
    weights = signal / found.noise.diagonal()
    return weights if weights.any() else np.ones_like(weights)
