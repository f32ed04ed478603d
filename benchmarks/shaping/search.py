"""Tuning every method with the same number of runs of the same length."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from benchmarks.shaping.protocol import Budget
from benchmarks.shaping.runs import Run, complete


@dataclass(frozen=True)
class Trial:
    """One setting of one method on one task, and what it reached.

    Attributes:
        task: The task.
        method: The method.
        learning_rate: AdamW's.
        clip_range: PPO's.
        reward: Mean training reward of the last rounds, over the search's seeds.
    """

    task: str
    method: str
    learning_rate: float
    clip_range: float
    reward: float

    @property
    def setting(self) -> tuple[str, str, float, float]:
        """What was tried."""
        return self.task, self.method, self.learning_rate, self.clip_range

    @property
    def name(self) -> str:
        """For folders."""
        return setting_name(self.learning_rate, self.clip_range)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Search:
    """Searches a method's learning rate, then its clip range, by the training reward.

    It starts with two learning rates, goes on to a third beyond the better of the two, by their
    ratio, and then tries the best of the three with the clip range that the method was not
    published with. The held-out prompts are not looked at: they are for the measured runs alone.

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
        trials = [self._try(task, method, rate, published) for rate in (low, high)]
        beyond = high * high / low if best(trials).learning_rate == high else low * low / high
        trials.append(self._try(task, method, rounded(beyond), published))
        rate = best(trials).learning_rate
        others = (clip_range for clip_range in self.budget.clip_ranges if clip_range != published)
        return trials + [self._try(task, method, rate, clip_range) for clip_range in others]

    def _try(self, task: str, method: str, learning_rate: float, clip_range: float) -> Trial:
        setting = (task, method, learning_rate, clip_range)
        known = next((trial for trial in self.known if trial.setting == setting), None)
        if known is not None:
            return known
        searched = {"learning_rate": learning_rate, "clip_range": clip_range}
        rewards = []
        for seed in self.budget.search_seeds:
            name = f"{setting_name(learning_rate, clip_range)}-seed{seed}"
            options = self.budget.searched(task, method, seed) | searched
            run = complete(Run(self.folder / task / method / name, options))
            rewards.append(last_reward(run.folder, self.budget.judged))
        return Trial(*setting, reward=float(np.mean(rewards)))

    def _published_clip_range(self, task: str, method: str) -> float:
        options = self.budget.searched(task, method, self.budget.search_seeds[0])
        clip_range = TrainSettings.of(**options).ppo.clip_range
        assert not callable(clip_range)
        return clip_range


def rounded(rate: float) -> float:
    """A learning rate without the noise of its arithmetic."""
    return float(f"{rate:.3g}")


def setting_name(learning_rate: float, clip_range: float) -> str:
    """A folder's name for what is searched."""
    return f"rate{learning_rate:g}-clip{clip_range:g}"


def best(trials: list[Trial]) -> Trial:
    """The trial that reached the highest reward."""
    return max(trials, key=lambda trial: trial.reward)


def last_reward(folder: RunFolder, part: float) -> float:
    """Mean training reward of the last part of a run's rounds."""
    rewards = [row["rollout/reward_mean"] for row in folder.metrics()]
    return float(np.mean(rewards[-max(1, round(part * len(rewards))) :]))
