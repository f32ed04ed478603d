"""What is compared: tasks, methods, and the budgets, of which every method gets the same."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.comparison.controls import SIGMA_OVER_GRADIENT

Options = Mapping[str, Any]
"""Options of ``python -m agents.train``, by the names of `agents.runs.settings.TrainSettings`."""

TASKS: dict[str, Options] = {
    "house_style": {"reward": "house_style", "prompts": "emoji-objects"},
    "jpeg_compressibility": {"reward": "jpeg_compressibility", "prompts": "emoji-objects"},
    "scene_alignment": {"reward": "scene_alignment", "prompts": "emoji-captions"},
    "clip_score": {"reward": "clip_score", "prompts": "emoji-captions"},
}

BASELINE = "sparse"
METHODS: dict[str, Options] = {
    BASELINE: {"shaping": "sparse"},
    "mask-last": {"shaping": "mask-last"},
    "uniform": {"shaping": "uniform"},
    "equal-scale": {"shaping": "equal-scale"},
    "noise-aware": {"shaping": "noise-aware"},
    "noise-aware 2": {"shaping": "noise-aware", "noise_exponent": 2.0},
    SIGMA_OVER_GRADIENT: {"shaping": SIGMA_OVER_GRADIENT},
    "coca": {"shaping": "coca"},
    "b2": {"shaping": "b2"},
    "b2+coca": {"shaping": "b2+coca"},
    "nft": {"algorithm": "nft"},
    "awm": {"algorithm": "nft", "loss": "awm"},
}
"""The methods, with their published settings but for what is searched."""


ROUNDS_OF_64: Options = {"num_envs": 64, "samples_per_prompt": 8, "batch_size": 160}
"""The default job's."""


@dataclass(frozen=True)
class Budget:
    """What every method gets, whichever it is.

    Attributes:
        images: Reward queries of a measured run.
        tasks: Names in `TASKS` that it is meant for.
        methods: Names in `METHODS` that are compared with it.
        seeds: Seeds of the measured runs.
        search_seeds: Seeds of the search's runs, which no measured run has; they are as long, since
            the best rate of a shorter run is too high for a longer one.
        judged: The last part of a searched run's rounds, whose training reward it is judged by.
        learning_rates: Two rates to begin the search with, the lower first; see `Search`.
        clip_ranges: What the published clip range of PPO's methods is compared with, if anything.
        evaluations: Evaluations of a measured run on held-out prompts, before, during and after.
        common: Options of all runs, the same for every method: all draw the same number of images
            of the same number of prompts in a round, and see each other's prompts.
        evaluation: Options of the measured runs' evaluations.
    """

    images: int
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    search_seeds: tuple[int, ...]
    judged: float
    learning_rates: tuple[float, float] = (1e-4, 2e-4)
    clip_ranges: tuple[float, ...] = ()
    evaluations: int = 6
    common: Options = field(
        default_factory=lambda: {"num_envs": 40, "samples_per_prompt": 5, "batch_size": 160}
    )
    evaluation: Options = field(default_factory=lambda: {"eval_prompts": 40, "eval_samples": 4})

    def searched(self, task: str, method: str, seed: int) -> dict[str, Any]:
        """Options of a method's runs in the search, but for what is searched."""
        return {
            **TASKS[task],
            **METHODS[method],
            **self.common,
            "images": self.images,
            "seed": seed,
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


def as_json(budget: Budget) -> dict[str, Any]:
    """The budget as it is read from a file."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(budget)))
    return values


BUDGETS: dict[str, Budget] = {
    # Four rounds of the default job's size. B²-DiffuRL, which trains on 2 of 5 branches and moves
    # its split over the run, is not compared with so few.
    "256": Budget(
        images=256,
        tasks=("house_style",),
        methods=(
            *(BASELINE, "mask-last", "uniform", "equal-scale", "noise-aware", "noise-aware 2"),
            *("coca", "nft", "awm"),
        ),
        seeds=(0, 1, 2, 3, 4),
        search_seeds=(100, 101),
        judged=3 / 4,  # all but the first, which is drawn before anything is learned
        evaluations=3,
        common=ROUNDS_OF_64,
    ),
    # Twice as many for the tasks that are harder to learn.
    "512": Budget(
        images=512,
        tasks=("jpeg_compressibility", "scene_alignment", "clip_score"),
        methods=(BASELINE, "noise-aware", "coca", "nft"),
        seeds=(0, 1, 2, 3, 4),
        search_seeds=(100,),
        judged=1 / 2,
        learning_rates=(5e-5, 1.5e-4),
        evaluations=3,
        common=ROUNDS_OF_64,
    ),
    "1200": Budget(
        images=1200,
        tasks=("house_style", "scene_alignment"),
        methods=(
            *(BASELINE, "mask-last", "uniform", "equal-scale", "noise-aware"),
            *("coca", "b2", "b2+coca"),
        ),
        seeds=(0, 1, 2),
        search_seeds=(100,),
        judged=1 / 3,
        clip_ranges=(2e-3, 1e-1),
    ),
}
"""The budgets by their number of reward queries."""
