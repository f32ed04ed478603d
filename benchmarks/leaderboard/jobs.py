"""The runs of a matrix, and which of them can be made now."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leaderboard.methods import MethodFile
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.tuning import Scores, best_step, next_steps

MEASURED, SEARCH = "measured", "search"


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        task: The task's name.
        method: The method's name.
        kind: "search" or "measured".
        seed: Its seed.
        learning_rate: Its rate; 0 where nothing is trained.
    """

    task: str
    method: str
    kind: str
    seed: int
    learning_rate: float

    @property
    def file(self) -> Path:
        """Its record below the protocol's folder."""
        folder = Path(self.task) / self.method
        if self.kind == MEASURED:
            return folder / f"seed{self.seed}.json"
        return folder / SEARCH / f"learning_rate{self.learning_rate:g}-seed{self.seed}.json"

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Job":
        """The run that a record is of."""
        rate = record["searched"].get("learning_rate", 0.0)
        return cls(record["task"], record["method"], record["kind"], record["seed"], rate)


@dataclass(frozen=True)
class Matrix:
    """What is run.

    Attributes:
        protocol: The protocol.
        methods: By name.
        tasks: Their names.
        seeds: Of the measured runs.
    """

    protocol: Protocol
    methods: Mapping[str, MethodFile]
    tasks: Sequence[str]
    seeds: Sequence[int]

    @property
    def size(self) -> int:
        """Runs in all, those of the search included."""
        protocol = self.protocol
        search = protocol.tuning.rates * len(protocol.search_seeds)
        own = [len(self.seeds) + (search if m.trains else 0) for m in self.methods.values()]
        return len(self.tasks) * sum(own)

    def ready(self, records: Mapping[Job, Mapping[str, Any]]) -> list[Job]:
        """The runs that are not made, and whose learning rate is known; searches first.

        Args:
            records: What was made so far.
        """
        jobs = [
            job
            for task in self.tasks
            for name, method in self.methods.items()
            for job in self._of_pair(task, name, method, records)
        ]
        return sorted((j for j in jobs if j not in records), key=lambda job: job.kind == MEASURED)

    def _of_pair(
        self,
        task: str,
        name: str,
        method: MethodFile,
        records: Mapping[Job, Mapping[str, Any]],
    ) -> Iterator[Job]:
        """The runs of a method on a task that can be made, or were."""
        rate = 0.0
        if method.trains:
            own = [r for j, r in records.items() if (j.task, j.method) == (task, name)]
            scores = search_scores(self.protocol, own)
            steps = next_steps(scores, self.protocol.tuning.rates)
            for step in steps:
                for seed in self.protocol.search_seeds:
                    yield Job(task, name, SEARCH, seed, self.protocol.tuning.rate(step))
            if steps:
                return
            rate = self.protocol.tuning.rate(best_step(scores))
        for seed in self.seeds:
            yield Job(task, name, MEASURED, seed, rate)


def search_scores(protocol: Protocol, records: Iterable[Mapping[str, Any]]) -> Scores:
    """What each rate reached, of those that were tried with every seed of the search.

    Args:
        protocol: The protocol.
        records: Those of one method on one task.
    """
    tuning = protocol.tuning
    by_rate: dict[float, dict[int, float]] = {}
    for record in records:
        if record["kind"] == SEARCH and record["seed"] in protocol.search_seeds:
            found = by_rate.setdefault(record["searched"]["learning_rate"], {})
            found[record["seed"]] = judged(record, tuning.judged)
    steps = {tuning.rate(step): step for step in range(-tuning.rates, tuning.rates + 1)}
    return {
        steps[rate]: float(np.mean([found[seed] for seed in protocol.search_seeds]))
        for rate, found in by_rate.items()
        if rate in steps and len(found) == len(protocol.search_seeds)
    }


def judged(record: Mapping[str, Any], part: float) -> float:
    """Mean training reward of the last part of a run's rounds; NaN of a run that failed."""
    rewards = record["training_rewards"]
    if record["failed"] is not None or not rewards:
        return float("nan")
    return float(np.mean(rewards[-max(1, round(part * len(rewards))) :]))
