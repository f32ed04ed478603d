"""What is compared: tasks, methods, and the budget that every method gets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Options = Mapping[str, Any]
"""Options of ``python -m agents.train``, by the names of `agents.runs.settings.TrainSettings`."""

TASKS: dict[str, Options] = {
    "house_style": {"reward": "house_style", "prompts": "emoji-objects"},
    "scene_alignment": {"reward": "scene_alignment", "prompts": "emoji-captions"},
}

BASELINE = "sparse"
METHODS: dict[str, Options] = {
    BASELINE: {"shaping": "sparse"},
    "uniform": {"shaping": "uniform"},
    "coca": {"shaping": "coca"},
    "b2": {"shaping": "b2"},
    "b2+coca": {"shaping": "b2+coca"},
}
"""The methods, with their published settings but for what is searched."""


@dataclass(frozen=True)
class Budget:
    """What every method gets, whichever it is.

    Attributes:
        images: Reward queries of a measured run.
        seeds: Seeds of the measured runs.
        search_seed: Seed of the search's runs, which no measured run has; they are as long, since
            the best rate of a shorter run is too high for a longer one.
        learning_rates: Two rates to begin the search with, the lower first; see `Search`.
        clip_ranges: What a method's published clip range is compared with.
        evaluations: Evaluations of a measured run on held-out prompts, before, during and after.
        common: Options of all runs, the same for every method: all draw the same number of images
            of the same number of prompts in a round, and see each other's prompts.
        evaluation: Options of the measured runs' evaluations.
    """

    images: int = 1200
    seeds: tuple[int, ...] = (0, 1, 2)
    search_seed: int = 100
    learning_rates: tuple[float, float] = (1e-4, 2e-4)
    clip_ranges: tuple[float, ...] = (2e-3, 1e-1)
    evaluations: int = 6
    common: Options = field(
        default_factory=lambda: {"num_envs": 40, "samples_per_prompt": 5, "batch_size": 160}
    )
    evaluation: Options = field(default_factory=lambda: {"eval_prompts": 40, "eval_samples": 4})

    def searched(self, task: str, method: str) -> dict[str, Any]:
        """Options of a method's runs in the search, but for what is searched."""
        return {
            **TASKS[task],
            **METHODS[method],
            **self.common,
            "images": self.images,
            "seed": self.search_seed,
            # The search goes by the training reward; every run ends with an evaluation.
            "eval_prompts": 2,
            "eval_samples": 1,
        }

    def measured(self, task: str, method: str, seed: int) -> dict[str, Any]:
        """Options of a method's measured run, but for what was searched."""
        rounds = -(-self.images // self.common["num_envs"])
        return {
            **TASKS[task],
            **METHODS[method],
            **self.common,
            **self.evaluation,
            "images": self.images,
            "seed": seed,
            "eval_every": -(-rounds // (self.evaluations - 1)),
        }
