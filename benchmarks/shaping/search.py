"""Tuning every method with the same number of runs of the same length."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.run_folder import RunFolder
from agents.settings import TrainSettings
from benchmarks.shaping.protocol import Budget
from benchmarks.shaping.runs import Run, complete

JUDGED = 1 / 3
"""The last part of a run's rounds, whose training reward it is judged by."""


@dataclass(frozen=True)
class Trial:
    """One setting of one method on one task, and what it reached.

    Attributes:
        task: The task.
        method: The method.
        learning_rate: AdamW's.
        clip_range: PPO's.
        reward: Mean training reward of the last rounds.
    """

    task: str
    method: str
    learning_rate: float
    clip_range: float
    reward: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Search:
    """Searches learning rate, then clip range, by the training reward.

    The held-out prompts are not looked at: they are for the measured runs alone.

    Args:
        budget: What every method gets.
        folder: Where its runs go.
        workers: Runs at a time.
    """

    def __init__(self, budget: Budget, folder: Path, workers: int) -> None:
        self.budget = budget
        self.folder = folder
        self.workers = workers

    def __call__(self, task: str, methods: list[str]) -> list[Trial]:
        """Everything that was tried for some methods on a task."""
        published = {name: self._published_clip_range(task, name) for name in methods}
        trials = self._try(
            [
                (task, name, rate, published[name])
                for name in methods
                for rate in self.budget.learning_rates
            ]
        )
        return trials + self._try(
            [
                (task, name, best(trials, task, name).learning_rate, clip_range)
                for name in methods
                for clip_range in self.budget.clip_ranges
                if clip_range != published[name]
            ]
        )

    def _try(self, settings: list[tuple[str, str, float, float]]) -> list[Trial]:
        runs = [self._run(*setting) for setting in settings]
        complete(runs, self.workers)
        return [
            Trial(*setting, reward=last_reward(run.folder))
            for setting, run in zip(settings, runs, strict=True)
        ]

    def _run(self, task: str, method: str, learning_rate: float, clip_range: float) -> Run:
        searched = {"learning_rate": learning_rate, "clip_range": clip_range}
        name = f"rate{learning_rate:g}-clip{clip_range:g}"
        return Run(
            self.folder / task / method / name, self.budget.searched(task, method) | searched
        )

    def _published_clip_range(self, task: str, method: str) -> float:
        return float(TrainSettings(**self.budget.searched(task, method)).clip_range or 0.0)


def best(trials: list[Trial], task: str, method: str) -> Trial:
    """The trial of a method on a task that reached the highest reward."""
    own = (trial for trial in trials if (trial.task, trial.method) == (task, method))
    return max(own, key=lambda trial: trial.reward)


def last_reward(folder: RunFolder) -> float:
    """Mean training reward of the last third of a run's rounds."""
    rewards = [row["rollout/reward_mean"] for row in folder.metrics()]
    return float(np.mean(rewards[-max(1, round(JUDGED * len(rewards))) :]))
