"""Figures of rounds as tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Figures = dict[str, Any]

PARTS = ("rollout", "decode", "reward", "update", "round")
NETWORK = ("rollout", "update")
"""The parts that the denoiser works in."""
SINGLE_DIFFERENCES = {
    "whole": "all images of an update at one step",
    "pairs": "pairs of the whole round in batches as small",
}
"""What is left of the usual loop with one difference less, by the names of `usual_seconds`."""


def seconds(figures: Figures, part: str) -> Array:
    """What a part took in each of the rounds."""
    return np.array([each[part] for each in figures["rounds"]])


def spread(values: Array, digits: int = 2) -> str:
    """Median, and the least and the most of the repeats."""
    low, middle, high = (f"{v:.{digits}f}" for v in (values.min(), np.median(values), values.max()))
    return f"{middle} [{low}, {high}]"


def table(measured: Sequence[tuple[str, Figures]]) -> list[list[str]]:
    """All figures, line by line, with a heading; a column for every job.

    Args:
        measured: Titles and figures of the jobs.
    """
    columns = [_column(figures) for _, figures in measured]
    return [
        ["", *(title for title, _ in measured)],
        *([name, *(column[name] for column in columns)] for name in columns[0]),
    ]


def _column(figures: Figures) -> dict[str, str]:
    images = figures["images"]
    spent = {part: seconds(figures, part) for part in PARTS}
    bare = {part: seconds(figures, f"bare_{part}") for part in NETWORK}
    usual = {part: seconds(figures, f"usual_{part}") for part in NETWORK}
    loop = f"one step of {figures['usual']} images at a time"
    own = {part: spent[part] - bare[part] for part in NETWORK}
    among = {
        "the denoiser alone": bare["rollout"] + bare["update"],
        "decoding": spent["decode"],
        "reward": spent["reward"],
        "rest of the rollout": own["rollout"],
        "rest of the update": own["update"],
        "logs and callbacks": spent["round"] - sum(spent[part] for part in PARTS[:-1]),
    }
    middle = {part: float(np.median(values)) for part, values in spent.items()}
    return {
        "images × steps of a round": f"{images} × {figures['steps']}",
        "denoiser evaluations of a round": f"{figures['evaluations']:,}",
        **{f"images/s, {part}": f"{images / middle[part]:.3g}" for part in PARTS},
        **{f"efficiency, {part}": spread(bare[part] / spent[part]) for part in NETWORK},
        **{
            f"times faster than {loop}, {part}": spread(usual[part] / spent[part])
            for part in NETWORK
        },
        f"times faster than {loop}, both": spread(
            (usual["rollout"] + usual["update"]) / (spent["rollout"] + spent["update"])
        ),
        **{
            f"times faster than {name}, update": spread(
                seconds(figures, f"usual_update_{order}") / spent["update"]
            )
            for order, name in SINGLE_DIFFERENCES.items()
        },
        **{
            f"part of the matrix peak, {part}": (
                f"{figures['flops'][part] / middle[part] / figures['matrix_peak']:.0%}"
            )
            for part in NETWORK
        },
        "matrix peak, TFLOP/s": f"{figures['matrix_peak'] / 1e12:.3g}",
        "peak memory, GB": f"{figures['peak_memory'] / 1e9:.2f}",
        **{
            f"part of a round, {name}": f"{np.median(values / spent['round']):.1%}"
            for name, values in among.items()
        },
    }


def growth_table(rows: Sequence[Figures]) -> list[list[str]]:
    """What `benchmarks.throughput.growth.measure` found."""
    return [
        ["embedding", "environments", "steps", "prompts", "a step, ms", "a reset, ms"],
        *(
            [
                *(str(row[name]) for name in ("embedding", "num_envs", "steps", "prompts")),
                *(f"{row[name]:.2f}" for name in ("step_ms", "reset_ms")),
            ]
            for row in rows
        ),
    ]
