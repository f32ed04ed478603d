"""The figures of all runs in one file, from which table and picture are made."""

from collections.abc import Mapping
from typing import Any

from agents.runs.run_folder import RunFolder

CURVE = {
    "reward": "eval/reward",
    "kl_to_base": "eval/kl_to_base",
    "diversity": "eval/diversity/clip",
}
"""What is kept of an evaluation during training, and its column in the run's metrics."""


def measured(
    task: str, method: str, searched: Mapping[str, float], folder: RunFolder
) -> dict[str, Any]:
    """The figures of one run with what the search has found, as JSON has them."""
    settings = folder.settings
    return {
        "task": task,
        "method": method,
        "seed": settings.run.seed,
        "searched": dict(searched),
        "curve": held_out_curve(folder),
        "training": [row["rollout/reward_mean"] for row in folder.metrics()],
        "summary": folder.summary(),
    }


def held_out_curve(folder: RunFolder) -> list[dict[str, float]]:
    """The held-out figures during a run and at its end, by what had been spent until then.

    An evaluation stands in the row of the round that follows it, whose own images and denoiser
    evaluations had not been spent yet.
    """
    queries = evaluations = 0.0
    curve = []
    for row in folder.metrics():
        if CURVE["reward"] in row:
            figures = {name: row[column] for name, column in CURVE.items()}
            curve.append(_point(queries, evaluations, figures))
        queries, evaluations = row["count/reward_queries"], row["count/denoiser_evaluations"]
    summary = folder.summary()
    end = {
        "reward": summary["reward_after"],
        "kl_to_base": summary["metrics"]["kl_to_base"]["after"],
        "diversity": summary["metrics"]["diversity/clip"]["after"],
    }
    return [*curve, _point(queries, evaluations, end)]


def _point(queries: float, evaluations: float, figures: dict[str, float]) -> dict[str, float]:
    return {"reward_queries": queries, "denoiser_evaluations": evaluations, **figures}
