"""What is frozen: tasks, budgets, evaluation, tuning and seeds, with a hash of each task."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.runs.builders import EVALUATION_SEED
from benchmarks.leaderboard.methods import MethodFile
from diffusion_gym.errors import InvalidInputError, unknown_name

FOLDER = Path(__file__).parent / "protocols"
NEWEST = FOLDER / "v0.toml"
PUBLISHED = "standard"
"""The tier whose results are published."""

ONLY_READ = ("title", "target", "record", "compared_at", "untrained", "best")
"""Of a task, what results are read with: it changes none."""

ROWS = ("tasks", "methods")
"""Of a tier, what says which results there are: it changes none either."""

ROUNDED = 3
"""Significant digits of a learning rate of the grid."""


@dataclass(frozen=True)
class Task:
    """One reward on one prompt set.

    Attributes:
        name: Its name.
        title: What the tables call it.
        reward: The reward's name.
        reward_version: The reward's version.
        prompts: The prompt set; its held-out part is evaluated on.
        train_sha256: Hash of the prompts to train on.
        held_out_sha256: Hash of those to evaluate on.
        queries: Most reward queries of a run.
        target: Held-out reward whose first whole round is looked for; None until it is fixed.
        record: A higher one, that the record is the fewest queries to; None without a record.
        compared_at: Denoiser evaluations after which scores are compared as well; None if not.
        untrained: Held-out reward of the untrained model; None until it is measured.
        best: Best held-out reward known, that scores are normalised with; likewise.
        sha256: Hash over everything that changes its results; that of another task is not in it,
            so that a task can be added to those that are measured.
    """

    name: str
    title: str
    reward: str
    reward_version: str
    prompts: str
    train_sha256: str
    held_out_sha256: str
    queries: int
    sha256: str
    target: float | None = None
    record: float | None = None
    compared_at: int | None = None
    untrained: float | None = None
    best: float | None = None

    def score(self, reward: float) -> float:
        """(reward - untrained) / (best - untrained).

        Raises:
            InvalidInputError: They are not fixed yet.
        """
        if self.untrained is None or self.best is None:
            raise InvalidInputError(
                f"expected {self.name} with untrained and best, which scores are made of, got "
                f"{self.untrained} and {self.best}"
            )
        return (reward - self.untrained) / (self.best - self.untrained)


@dataclass(frozen=True)
class Tuning:
    """The grid of learning rates, ``middle * ratio**k``.

    Attributes:
        middle: The middle one of the first three.
        ratio: Between neighbours.
        rates: Rates that every method is tried with.
        judged: The last part of a run's rounds, whose training reward it is judged by.
    """

    middle: float
    ratio: float
    rates: int
    judged: float

    def rate(self, step: int) -> float:
        """The rate so many steps above the middle."""
        return float(f"{self.middle * self.ratio**step:.{ROUNDED}g}")


@dataclass(frozen=True)
class Protocol:
    """A tier of a protocol.

    Attributes:
        version: The protocol's.
        tier: The tier's name.
        model: The model's name.
        model_sha256: Hash of its weights.
        baseline: The method that the others are tested against.
        tasks: By name.
        common: Options of all runs.
        evaluation: Options of the evaluations.
        tuning: How the learning rate is chosen.
        seeds: Of the measured runs.
        search_seeds: Of the tuning runs.
        methods: Rows of this tier; all there are where it is empty.
    """

    version: str
    tier: str
    model: str
    model_sha256: str
    baseline: str
    tasks: Mapping[str, Task]
    common: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    tuning: Tuning
    seeds: tuple[int, ...]
    search_seeds: tuple[int, ...]
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """The version, and the tier where it is not the published one."""
        return self.version if self.tier == PUBLISHED else f"{self.version}-{self.tier}"

    def task(self, name: str) -> Task:
        """A task by name.

        Raises:
            InvalidInputError: There is none.
        """
        if name not in self.tasks:
            raise unknown_name("task", name, self.tasks)
        return self.tasks[name]

    def options(self, task: Task, method: MethodFile, seed: int, rate: float) -> dict[str, Any]:
        """Options of one run, by the names of `agents.runs.settings.TrainSettings`.

        As many whole rounds as the budget pays for: never one more.

        Raises:
            InvalidInputError: It does not pay for one round.
        """
        options = {**self.common, **method.options}
        rounds = task.queries // (options["num_envs"] * options.get("batches_per_round", 1))
        if rounds < 1:
            raise InvalidInputError(
                f"expected rounds of at most {task.queries} images, got {options['num_envs']}"
            )
        return {
            **options,
            **self.evaluation,
            "model": self.model,
            "reward": task.reward,
            "prompts": task.prompts,
            "images": rounds * options["num_envs"] * options.get("batches_per_round", 1),
            "seed": seed,
            "learning_rate": rate,
        }


def load_protocol(tier: str, path: Path = NEWEST) -> Protocol:
    """Reads a tier of a protocol.

    Raises:
        InvalidInputError: There is no such tier, the file is damaged, it publishes a seed that
            the search has, or the evaluations' noise is another one.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if tier not in content["tiers"]:
            raise unknown_name("tier", tier, content["tiers"])
        own = content["tiers"][tier]
        chosen = own.get("tasks", list(content["tasks"]))
        tasks = {name: _task(content, tier, name) for name in chosen}
        protocol = Protocol(
            version=content["version"],
            tier=tier,
            model=content["model"],
            model_sha256=content["model_sha256"],
            baseline=content["baseline"],
            tasks=tasks,
            common=content["common"] | own.get("common", {}),
            evaluation=content["evaluation"] | own.get("evaluation", {}),
            tuning=Tuning(**content["tuning"] | own.get("tuning", {})),
            seeds=tuple(own["seeds"]),
            search_seeds=tuple(own["search_seeds"]),
            methods=tuple(own.get("methods", ())),
        )
        noise = content["evaluation_noise"]["seed"]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInputError(f"expected a protocol in {path}, got: {error!r}") from error
    if shared := set(protocol.seeds) & set(protocol.search_seeds):
        raise InvalidInputError(f"expected search seeds that are not published, got {shared}")
    if noise != EVALUATION_SEED:
        raise InvalidInputError(
            f"expected evaluation noise of seed {EVALUATION_SEED}, which evaluations have, got "
            f"{noise}"
        )
    return protocol


def _task(content: Mapping[str, Any], tier: str, name: str) -> Task:
    own = content["tiers"][tier]
    queries = {"queries": own["queries"]} if "queries" in own else {}
    return Task(
        name=name, sha256=task_hash(content, tier, name), **content["tasks"][name] | queries
    )


def task_hash(content: Mapping[str, Any], tier: str, name: str) -> str:
    """SHA-256 over what changes a task's results; neither the order of keys nor other tasks do."""
    task = {key: value for key, value in content["tasks"][name].items() if key not in ONLY_READ}
    own = {key: value for key, value in content["tiers"][tier].items() if key not in ROWS}
    whole = {**content, "tasks": {name: task}, "tiers": {tier: own}}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
