"""The picture of one case: where signal and noise are, and what weights make of it."""

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.step_signal.report import Case

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SIGNAL, NOISE, OTHER = "tab:blue", "tab:red", "0.6"


def draw(name: str, case: Case, path: Path) -> None:
    """Draws a case.

    Args:
        name: Its name.
        case: Its figures.
        path: Where the PNG goes.
    """
    figure, (steps, weights) = plt.subplots(
        1, 2, figsize=(11, 4.2), gridspec_kw={"width_ratios": [1, 1]}
    )
    _steps(steps, case)
    _weightings(weights, case)
    figure.suptitle(f"{name}: the gradient of one batch of {case['images']} images", y=0.99)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _steps(axis: Axes, case: Case) -> None:
    index = np.array(case["steps"])
    noise, scale = np.array(case["noise"]), np.array(case["gradient_scale"])
    squared, error = np.array(case["signal_squared"]), np.array(case["signal_squared_error"])
    seen = squared > 0
    low, high = (
        np.sqrt(np.clip(squared - error, 0, None)),
        np.sqrt(np.clip(squared + error, 0, None)),
    )
    signal = np.sqrt(np.where(seen, squared, 0))
    axis.plot(index, noise, "o-", color=NOISE, label="noise: deviation of one batch")
    factor = np.exp(np.log(noise / scale).mean())
    axis.plot(index, factor * scale, ":", color=NOISE, label="g = C/σ, from the schedule alone")
    axis.errorbar(
        index[seen],
        signal[seen],
        yerr=np.stack([signal - low, high - signal])[:, seen],
        fmt="s-",
        color=SIGNAL,
        capsize=3,
        label="signal: the mean gradient",
    )
    axis.set_yscale("log")
    axis.set_xticks(index)
    axis.set_xlabel("denoising step")
    axis.set_ylabel("length of the gradient of log π")
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)


def _weightings(axis: Axes, case: Case) -> None:
    names = list(case["signal_to_noise"])[::-1]
    values = np.array([case["signal_to_noise"][name][0] for name in names])
    errors = [case["signal_to_noise"][name][1] or 0.0 for name in names]
    named = {"g^-1.5"}  # what `NoiseAwareReward` does unless told
    colors = [SIGNAL if name in named else OTHER for name in names]
    axis.barh(np.arange(len(names)), values, xerr=errors, color=colors, capsize=2)
    axis.set_yticks(np.arange(len(names)), names, fontsize="small")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("signal² / noise² of one batch, by the weights of its steps")
    axis.grid(axis="x", alpha=0.3)
