"""Every task, method and seed: what is finished, what can run now, what is left."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agents.runs.run_folder import write_json
from benchmarks.leaderboard.methods import MethodFile
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.training import Job, Result
from benchmarks.leaderboard.tuning import best_step, is_inside, next_steps
from diffusion_gym.errors import InvalidInputError


class Results:
    """The results' folder: one JSON file for each run, written once.

    Args:
        folder: The folder.
        protocol: What the results must be of.
    """

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        self.folder = folder
        self.protocol = protocol
        self.found: dict[str, Result] = {}
        for file in sorted(folder.glob("*/*/*/*.json")):
            result = json.loads(file.read_text())
            if result["protocol_sha256"] != protocol.sha256 or result["tier"] != protocol.tier:
                raise InvalidInputError(
                    f"expected results of protocol {protocol.version} ({protocol.sha256[:12]}), "
                    f"tier {protocol.tier}, got another's in {file}"
                )
            self.found[str(file.relative_to(folder).with_suffix(""))] = result

    def add(self, job: Job, result: Result) -> None:
        """Keeps a finished run.

        Raises:
            InvalidInputError: There is one already.
        """
        if job.name in self.found:
            raise InvalidInputError(f"expected one result of {job.name}, got a second one")
        path = self.folder / f"{job.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
        self.found[job.name] = result


@dataclass(frozen=True)
class Matrix:
    """The runs of some tasks and methods.

    Attributes:
        protocol: The protocol.
        methods: The rows by name.
        tasks: The tasks' names.
        seeds: Seeds of the measured runs; the protocol's unless fewer are asked for.
    """

    protocol: Protocol
    methods: Mapping[str, MethodFile]
    tasks: Sequence[str]
    seeds: Sequence[int] = field(default=())

    def ready(self, found: Mapping[str, Result]) -> list[Job]:
        """Runs that can be made now and are not among the results, in the order of the seeds.

        A method's measured runs are ready when its learning rate is known. Runs of one seed come
        before those of the next, so that a matrix that is stopped has whole seeds.

        Args:
            found: Results by the names of their jobs.
        """
        jobs = [
            job
            for task in self.tasks
            for method in self.methods
            for job in self._ready(task, method, found)
            if job.name not in found
        ]
        return sorted(jobs, key=lambda job: (job.kind == "measured", job.seed))

    def _ready(self, task: str, method: str, found: Mapping[str, Result]) -> Iterable[Job]:
        rate = self.learning_rate(task, method, found)
        if rate is None:
            scores = self.scores(task, method, found)
            known = {step: score for step, score in scores.items() if score is not None}
            steps = next_steps(known, self.protocol.tuning.rates)
            return [
                self.tuning_job(task, method, step, seed)
                for step in steps
                for seed in self.protocol.search_seeds
            ]
        return [
            Job(task, method, "measured", seed, rate) for seed in self.seeds or self.protocol.seeds
        ]

    def tuning_job(self, task: str, method: str, step: int, seed: int) -> Job:
        """The run that tries a rate with a search seed."""
        return Job(task, method, "tuning", seed, self.protocol.tuning.rate(step))

    def scores(
        self, task: str, method: str, found: Mapping[str, Result]
    ) -> dict[int, float | None]:
        """What each rate reached, None for one with a search seed missing; a failure is NaN."""
        reached: dict[int, float | None] = {}
        most = self.protocol.tuning.rates
        for step in range(-most, most + 1):
            names = [
                self.tuning_job(task, method, step, seed).name
                for seed in self.protocol.search_seeds
            ]
            runs = [found[name] for name in names if name in found]
            if len(runs) == len(names):
                values = [training_score(run, self.protocol.tuning.judged) for run in runs]
                reached[step] = float(np.mean(values))
            elif runs:
                reached[step] = None
        return reached

    def learning_rate(self, task: str, method: str, found: Mapping[str, Result]) -> float | None:
        """The best rate; None while it is not known, 0 where nothing is trained."""
        if not self.methods[method].trains:
            return 0.0
        scores = self.scores(task, method, found)
        known = {step: score for step, score in scores.items() if score is not None}
        if len(known) < self.protocol.tuning.rates or len(known) < len(scores):
            return None
        return self.protocol.tuning.rate(best_step(known))

    def rate_is_inside(self, task: str, method: str, found: Mapping[str, Result]) -> bool:
        """Whether rates on both sides of the best were tried."""
        scores = self.scores(task, method, found)
        known = {step: score for step, score in scores.items() if score is not None}
        return not self.methods[method].trains or (bool(known) and is_inside(known))

    @property
    def total(self) -> int:
        """Runs of the whole matrix, tuning included."""
        tuned = sum(method.trains for method in self.methods.values())
        tuning = tuned * self.protocol.tuning.rates * len(self.protocol.search_seeds)
        measured = len(self.methods) * len(self.seeds or self.protocol.seeds)
        return len(self.tasks) * (tuning + measured)


def training_score(run: Result, judged: float) -> float:
    """Mean training reward of the last part of a run's rounds; NaN for one that failed."""
    if run["status"] != "finished":
        return math.nan
    rewards = [row["reward"] for row in run["training"]]
    return float(np.mean(rewards[-max(1, round(judged * len(rewards))) :]))
