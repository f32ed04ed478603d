"""The picture of the comparison."""

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.comparison import seeds

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

AGAINST = {
    "reward_queries": "reward queries",
    "denoiser_evaluations": "denoiser evaluations",
    "kl_to_base": "KL divergence to the base model",
    "diversity": "CLIP diversity of a prompt's images",
}
"""What the reward is drawn against, by its name in a run's curve."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draws held-out reward against what it cost; a row per task.

    Lines are means over the seeds, in both directions. Against what was spent, bands reach from the
    least to the greatest of the seeds.

    Args:
        results: As the results' file has them.
        path: Where the PNG goes.
    """
    tasks = results["tasks"]
    figure, axes = plt.subplots(
        len(tasks), len(AGAINST), figsize=(18, 4 * len(tasks)), squeeze=False, sharey="row"
    )
    for row, task in zip(axes, tasks, strict=True):
        for axis, (cost, label) in zip(row, AGAINST.items(), strict=True):
            _panel(axis, results, task, cost)
            axis.set_xlabel(label)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"{task}, held-out prompts")
        row[-1].invert_xaxis()  # what is lost grows to the right in all panels
    axes[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _panel(axis: Axes, results: dict[str, Any], task: str, cost: str) -> None:
    """The curves of all methods whose runs know what they cost."""
    for number, method in enumerate(results["methods"]):
        runs = seeds.of_method(results["runs"], task, method)
        if not runs or any(cost not in point for run in runs for point in run["curve"]):
            continue
        points, rewards = seeds.curves(runs, cost)
        color = f"C{number}"
        axis.plot(points, rewards.mean(0), ".-", color=color, label=method)
        if (points[1:] >= points[:-1]).all():
            axis.fill_between(points, rewards.min(0), rewards.max(0), color=color, alpha=0.1)
