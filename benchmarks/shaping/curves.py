"""The picture of the comparison."""

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.shaping import seeds

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SPENT = {
    "reward_queries": "reward queries",
    "denoiser_evaluations": "denoiser evaluations",
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draws held-out reward against what was spent; a row per task.

    Lines are means over the seeds, bands reach from the least to the greatest of them.

    Args:
        results: As the results' file has them.
        path: Where the PNG goes.
    """
    tasks = results["tasks"]
    figure, axes = plt.subplots(
        len(tasks), len(SPENT), figsize=(10, 3.6 * len(tasks)), squeeze=False, sharey="row"
    )
    for row, task in zip(axes, tasks, strict=True):
        for axis, (spent, label) in zip(row, SPENT.items(), strict=True):
            for method in results["methods"]:
                runs = seeds.of_method(results["runs"], task, method)
                points, rewards = seeds.curves(runs, spent)
                (line,) = axis.plot(points, rewards.mean(0), label=method)
                axis.fill_between(
                    points, rewards.min(0), rewards.max(0), color=line.get_color(), alpha=0.15
                )
            axis.set_xlabel(label)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"{task}, held-out prompts")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
