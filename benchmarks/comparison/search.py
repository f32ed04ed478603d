"""Tuning every method with the same number of runs of the same length."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from benchmarks.comparison.protocol import Budget
from benchmarks.comparison.runs import Run, complete


@dataclass(frozen=True)
class Trial:
    """One setting of one method on one task, and what it reached.

    Attributes:
        task: The task.
        method: The method.
        searched: The options that were tried, by the names of `TrainSettings`.
        reward: Mean training reward of the last rounds, over the search's seeds.
    """

    task: str
    method: str
    searched: dict[str, float]
    reward: float

    @property
    def learning_rate(self) -> float:
        """AdamW's."""
        return self.searched["learning_rate"]

    @property
    def name(self) -> str:
        """For folders."""
        return setting_name(self.searched)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Search:
    """Searches a method's learning rate, then its clip range, by the training reward.

    It starts with two learning rates, goes on to a third beyond the better of the two, by their
    ratio, and then, where the budget has clip ranges and the method one, tries the best of the
    three with the clip range that it was not published with. The held-out prompts are not looked
    at: they are for the measured runs alone.

    Args:
        budget: What every method gets.
        folder: Where the runs go.
        known: What was tried before.
    """

    def __init__(self, budget: Budget, folder: Path, known: Sequence[Trial] = ()) -> None:
        self.budget = budget
        self.folder = folder
        self.known = known

    def __call__(self, task: str, method: str) -> list[Trial]:
        """Everything that was tried for a method on a task, in this order."""
        published = self._published_clip_range(task, method)
        low, high = self.budget.learning_rates
        trials = [self._try(task, method, published | {"learning_rate": r}) for r in (low, high)]
        beyond = high * high / low if best(trials).learning_rate == high else low * low / high
        trials.append(self._try(task, method, published | {"learning_rate": rounded(beyond)}))
        searched = best(trials).searched
        for clip_range in self.budget.clip_ranges if published else ():
            if clip_range != published["clip_range"]:
                trials.append(self._try(task, method, searched | {"clip_range": clip_range}))
        return trials

    def _try(self, task: str, method: str, searched: dict[str, float]) -> Trial:
        for trial in self.known:
            if (trial.task, trial.method, trial.searched) == (task, method, searched):
                return trial
        rewards = []
        for seed in self.budget.search_seeds:
            options = self.budget.searched(task, method, seed) | searched
            path = self.folder / task / method / f"{setting_name(searched)}-seed{seed}"
            run = complete(Run(path, options))
            rewards.append(last_reward(run.folder, self.budget.judged))
        return Trial(task, method, searched, reward=float(np.mean(rewards)))

    def _published_clip_range(self, task: str, method: str) -> dict[str, float]:
        """None where no clip range is searched, or the method has none."""
        options = self.budget.searched(task, method, self.budget.search_seeds[0])
        settings = TrainSettings.of(**options)
        if not self.budget.clip_ranges or settings.run.algorithm != "ppo":
            return {}
        assert not callable(settings.ppo.clip_range)
        return {"clip_range": settings.ppo.clip_range}


def rounded(rate: float) -> float:
    """A learning rate without the noise of its arithmetic."""
    return float(f"{rate:.3g}")


def setting_name(searched: Mapping[str, float]) -> str:
    """A folder's name for what is searched."""
    return "-".join(f"{name}{searched[name]:g}" for name in sorted(searched))


def best(trials: list[Trial]) -> Trial:
    """The trial that reached the highest reward."""
    return max(trials, key=lambda trial: trial.reward)


def last_reward(folder: RunFolder, part: float) -> float:
    """Mean training reward of the last part of a run's rounds."""
    rewards = [row["rollout/reward_mean"] for row in folder.metrics()]
    return float(np.mean(rewards[-max(1, round(part * len(rewards))) :]))
