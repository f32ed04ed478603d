"""One measured case as JSON, and the table of all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.step_signal.moments import (
    Array,
    Moments,
    cross_validated,
    jackknife,
    measured_weights,
    moments,
)
from benchmarks.tables import markdown_table

Case = dict[str, Any]
"""What was measured of one policy, as JSON has it."""

RATIOS = ("weights", "signal² / noise² of one batch", "standard error")
"""The columns of the table of weightings."""

FITTED = "best possible, fitted to these batches"
CROSS_FITTED = "best possible, fitted to the other half"
CROSS_MEASURED = "signal/noise² of each step, of the other half"


def figures(inner_products: Array, gradient_scale: Array, weights: Mapping[str, Array]) -> Case:
    """Everything that is told of per-step gradients.

    Args:
        inner_products: ``[B, T, B, T]``, of the steps that have noise.
        gradient_scale: g of these steps, ``[T]``.
        weights: Weightings by name, ``[T]`` each.
    """
    found = moments(inner_products)
    ratios: dict[str, list[float | None]] = {}
    for name, weight in weights.items():
        ratios[name] = _with_error(inner_products, weight)
    best = found.best_weights()
    ratios[FITTED] = [found.signal_to_noise(best), None]
    ratios[CROSS_FITTED] = [cross_validated(inner_products, Moments.best_weights), None]
    ratios[CROSS_MEASURED] = [cross_validated(inner_products, measured_weights), None]
    signal, signal_error = jackknife(inner_products, lambda each: each.signal.diagonal())
    ratio = found.noise_norm / gradient_scale
    return {
        "batches": len(inner_products),
        "gradient_scale": gradient_scale.tolist(),
        "signal_squared": signal.tolist(),
        "signal_squared_error": signal_error.tolist(),
        "noise": found.noise_norm.tolist(),
        "noise_over_scale": (ratio / np.exp(np.log(ratio).mean())).tolist(),
        "cosines": found.cosines.tolist(),
        "best_weights": best.tolist(),
        "signal_to_noise": ratios,
    }


def _with_error(inner_products: Array, weights: Array) -> list[float | None]:
    value, error = jackknife(inner_products, lambda each: each.signal_to_noise(weights))
    return [float(value), float(error)]


def document(cases: Mapping[str, Case]) -> str:
    """All cases as a page of Markdown."""
    return "\n".join([PAGE, *(_section(name, case) for name, case in cases.items())])


def _section(name: str, case: Case) -> str:
    what = f"{case['model']}, {case['reward']}, {case['policy']}, {case['weights']}"
    steps = [
        ["g", *(f"{g:.3g}" for g in case["gradient_scale"])],
        ["noise/g, geometric mean 1", *(f"{r:.2f}" for r in case["noise_over_scale"])],
        ["signal² / noise²", *_step_ratios(case)],
        ["cosine with the step before", *_neighbours(case)],
        ["best weights, fitted", *(f"{w:.3f}" for w in case["best_weights"])],
    ]
    ratios = [
        [weighting, f"{value:.4f}", "" if error is None else f"{error:.4f}"]
        for weighting, (value, error) in case["signal_to_noise"].items()
    ]
    return (
        f"\n## {name}\n\n{what}; {case['batches']} batches of {case['images']} images.\n\n"
        f"{markdown_table(['step', *map(str, case['steps'])], steps)}\n\n"
        f"{markdown_table(RATIOS, ratios)}"
    )


def _step_ratios(case: Case) -> list[str]:
    parts = zip(case["signal_squared"], case["signal_squared_error"], case["noise"], strict=True)
    return [f"{s / n**2:.3f} ± {e / n**2:.3f}" for s, e, n in parts]


def _neighbours(case: Case) -> list[str]:
    """Cosines of mean gradients that follow each other, where both can be told from noise."""
    parts = zip(case["signal_squared"], case["signal_squared_error"], strict=True)
    seen = [square > error for square, error in parts]
    pairs = [
        f"{case['cosines'][step - 1][step]:.2f}" if seen[step - 1] and seen[step] else "—"
        for step in range(1, len(seen))
    ]
    return ["—", *pairs]


PAGE = """# Signal and noise of every step's policy gradient

`python -m benchmarks.step_signal` measures, for one policy, the gradient of every denoising step in
many batches. The signal is the mean gradient, its square unbiased from pairs of batches (it may be
negative where there is little of it); the noise is the deviation of one batch from it. ± is a
standard error, by the jackknife over batches. Weights P combine the steps' gradients into
Σ P_i G_i, whose signal² / noise² says how much one batch teaches: a first-order optimiser needs
about noise² / signal² batches to see where to go. The cosine of a step's mean gradient with that of
the step before is there where both squares are larger than their standard errors; noise may take
it beyond 1.

"Best possible" is the first generalised eigenvector of signal and noise. Fitted to the batches that
it is judged by, it is too good; fitted to one half and judged by the other, it says what measured
weights are worth.
"""
