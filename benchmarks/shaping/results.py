"""The figures of all runs in one file, from which table and picture are made."""

from typing import Any

from agents.runs.run_folder import RunFolder

EVALUATION = "eval/reward"
"""The column of an evaluation during training."""


def measured(task: str, method: str, folder: RunFolder) -> dict[str, Any]:
    """The figures of one run, as JSON has them."""
    settings = folder.settings
    return {
        "task": task,
        "method": method,
        "seed": settings.run.seed,
        "learning_rate": settings.ppo.learning_rate,
        "clip_range": settings.ppo.clip_range,
        "curve": held_out_curve(folder),
        "summary": folder.summary(),
    }


def held_out_curve(folder: RunFolder) -> list[dict[str, float]]:
    """The held-out reward during a run and at its end, by what had been spent until then.

    An evaluation stands in the row of the round that follows it, whose own images and denoiser
    evaluations had not been spent yet.
    """
    queries = evaluations = 0.0
    curve = []
    for row in folder.metrics():
        if EVALUATION in row:
            curve.append(_point(queries, evaluations, row[EVALUATION]))
        queries, evaluations = row["count/reward_queries"], row["count/denoiser_evaluations"]
    return [*curve, _point(queries, evaluations, folder.summary()["reward_after"])]


def _point(queries: float, evaluations: float, reward: float) -> dict[str, float]:
    return {"reward_queries": queries, "denoiser_evaluations": evaluations, "reward": reward}
