"""What can be said about methods from a few seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.evaluation.evaluation import PairedDifference, paired_difference

Array = npt.NDArray[np.float64]


def of_method(runs: Sequence[dict[str, Any]], task: str, method: str) -> list[dict[str, Any]]:
    """The runs of a method on a task, by seed."""
    own = (run for run in runs if (run["task"], run["method"]) == (task, method))
    return sorted(own, key=lambda run: run["seed"])


def gains(runs: Sequence[dict[str, Any]]) -> Array:
    """By how much each run raised the held-out reward, ``[N]``."""
    return np.array([run["summary"]["difference"] for run in runs])


def advantage(
    runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]
) -> PairedDifference:
    """How much more than a baseline a method gained; 95% t interval, the seed as the unit."""
    return paired_difference(gains(baseline), gains(runs))


def curves(runs: Sequence[dict[str, Any]], spent: str) -> tuple[Array, Array]:
    """What had been spent, ``[E]``, and each run's held-out reward then, ``[N, E]``.

    Runs of one method are evaluated after the same rounds; what they had spent until then may
    differ a little (B² trains on as many branches as are selected), and is averaged.
    """
    points = [[point[spent] for point in run["curve"]] for run in runs]
    rewards = [[point["reward"] for point in run["curve"]] for run in runs]
    return np.mean(points, axis=0), np.array(rewards)


def spent_until(spent: Array, rewards: Array, target: float) -> float:
    """Where a curve first reaches a target, between its points along straight lines.

    Args:
        spent: ``[E]``, rising.
        rewards: ``[E]``.
        target: The reward to reach.

    Returns:
        What was spent until then; infinite if the curve stays below.
    """
    reached = np.flatnonzero(rewards >= target)
    if not len(reached):
        return float("inf")
    k = int(reached[0])
    if k == 0:
        return float(spent[0])
    share = (target - rewards[k - 1]) / (rewards[k] - rewards[k - 1])
    return float(spent[k - 1] + share * (spent[k] - spent[k - 1]))
