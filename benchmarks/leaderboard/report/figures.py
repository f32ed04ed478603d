"""Everything that a report tells, computed from the records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.leaderboard.report.inputs import BASELINE, Record, Task
from benchmarks.leaderboard.statistics.intervals import Array, Interval, interval
from benchmarks.leaderboard.statistics.ranks import Stability, rank_stability
from benchmarks.leaderboard.statistics.significance import (
    ALPHA,
    detectable_effect,
    holm,
    sign_flip,
    smallest_p,
)
from benchmarks.leaderboard.statistics.target import (
    first_reaching,
    queries_to_target,
    restricted,
    share_reached,
    times_fewer,
)

BySeed = Mapping[int, Record]


@dataclass(frozen=True)
class Row:
    """A method on a task.

    Attributes:
        method: Its name.
        failed: How many of its runs failed; they are among the seeds, with a gain of 0.
        reward: Held-out reward after training.
        score: The same, normalised.
        advantage: Score above the baseline's, with the same seeds; None for the baseline.
        reached: Share of runs that reached the target; None without a target.
        queries: Restricted mean of the reward queries until then; None without a target.
        times_fewer: How many times fewer than the baseline's; None for it, or without a target.
        kl: KL divergence to the base model after training.
        diversity: CLIP diversity of a prompt's images after training.
        kl_at_target: KL divergence minus the baseline's, each when it first had the target's
            reward, over the seeds with which both had; None for the baseline or without a target.
        diversity_at_target: The same of the diversity.
        evaluations: Denoiser evaluations of a run.
        seconds: Training seconds of a run.
        curve: What was spent, the reward and what it cost, as means over the seeds.
    """

    method: str
    failed: int
    reward: Interval
    score: Interval
    advantage: Interval | None
    reached: float | None
    queries: float | None
    times_fewer: Interval | None
    kl: Interval
    diversity: Interval
    kl_at_target: Interval | None
    diversity_at_target: Interval | None
    evaluations: float
    seconds: float
    curve: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Verdict:
    """A method of the confirmatory family against the baseline.

    Attributes:
        method: Its name.
        difference: Mean score over the tasks minus the baseline's, with the same seeds.
        p: Of the sign-flip test; None where seeds or tasks are missing.
        adjusted: The same after Holm.
        detectable: The difference that 80% of such experiments would have found; None likewise.
        missing: Why there is no test; empty where there is one.
    """

    method: str
    difference: Interval
    p: float | None
    adjusted: float | None
    detectable: float | None
    missing: str

    @property
    def decided(self) -> bool:
        """Whether the method is told from the baseline."""
        return self.adjusted is not None and self.adjusted <= ALPHA


@dataclass(frozen=True)
class Report:
    """All figures.

    Attributes:
        tasks: The tasks that have records.
        planned: How many tasks the protocol has.
        methods: The methods, the baseline first, then by name.
        rows: The methods of each task.
        family: The confirmatory family.
        stability: Of the order of methods by their mean score over the tasks, over the seeds that
            all of them have; empty where there is no such order.
        runs: How many runs there are.
    """

    tasks: Sequence[Task]
    planned: int
    methods: Sequence[str]
    rows: Mapping[str, Sequence[Row]]
    family: Sequence[Verdict]
    stability: Sequence[Stability]
    runs: int


def report(tasks: Sequence[Task], records: Sequence[Record]) -> Report:
    """The figures of all records of a protocol's tasks."""
    runs: dict[tuple[str, str], dict[int, Record]] = {}
    for record in records:
        runs.setdefault((record["task"], record["method"]), {})[record["seed"]] = record
    methods = sorted({method for _, method in runs}, key=lambda name: (name != BASELINE, name))
    present = [task for task in tasks if any(name == task.name for name, _ in runs)]
    rows = {
        task.name: [
            _row(task, method, runs[task.name, method], runs.get((task.name, BASELINE), {}))
            for method in methods
            if (task.name, method) in runs
        ]
        for task in present
    }
    scores = {
        method: _mean_scores(tasks, [runs.get((task.name, method), {}) for task in tasks])
        for method in methods
    }
    return Report(
        present, len(tasks), methods, rows, _family(scores), _stability(scores), len(records)
    )


def held_out_reward(record: Record, when: str) -> float:
    """Mean over the prompts of the mean over their images, without images that have none."""
    rewards = np.array(record[when]["rewards"], dtype=float)
    return float(np.nanmean(np.nanmean(rewards, axis=1)))


def score(record: Record, task: Task) -> float:
    """(reward - untrained) / (best - untrained); 0 of a run that failed."""
    if record["failed"] is not None:
        return 0.0
    return (held_out_reward(record, "after") - task.untrained) / (task.best - task.untrained)


def _mean_scores(tasks: Sequence[Task], runs: Sequence[BySeed]) -> dict[int, float]:
    """The mean over all tasks by seed, of the seeds that all tasks have."""
    seeds = set.intersection(*(set(each) for each in runs)) if runs else set()
    return {
        seed: float(np.mean([score(each[seed], t) for each, t in zip(runs, tasks, strict=True)]))
        for seed in sorted(seeds)
    }


def _family(scores: Mapping[str, Mapping[int, float]]) -> list[Verdict]:
    methods = [method for method in scores if method != BASELINE]
    baseline = scores.get(BASELINE, {})
    pairs = {}
    for method in methods:
        seeds = sorted(set(scores[method]) & set(baseline))
        pairs[method] = np.array([scores[method][seed] - baseline[seed] for seed in seeds])
    # A method that cannot be tested stays in the family: it was meant to be compared.
    p = {m: sign_flip(d) for m, d in pairs.items() if _enough(d, len(methods))}
    values = [p.get(method, 1.0) for method in methods]
    adjusted = dict(zip(methods, holm(values), strict=True)) if methods else {}
    return [
        Verdict(
            method,
            interval(differences),
            p.get(method),
            float(adjusted[method]) if method in p else None,
            detectable_effect(differences, len(methods)) if method in p else None,
            "" if method in p else "insufficient seeds" if len(differences) else "no common seeds",
        )
        for method, differences in pairs.items()
    ]


def _enough(differences: Array, methods: int) -> bool:
    return len(differences) > 1 and smallest_p(len(differences)) <= ALPHA / methods


def _stability(scores: Mapping[str, Mapping[int, float]]) -> list[Stability]:
    complete = [each for each in scores.values() if each]
    common = sorted(set.intersection(*map(set, complete))) if complete else []
    if len(complete) < 2 or len(common) < 2:
        return []
    return rank_stability(np.array([[each[seed] for seed in common] for each in complete]))


def _row(task: Task, method: str, runs: BySeed, baseline: BySeed) -> Row:
    sound = [run for run in runs.values() if run["failed"] is None]
    common = sorted(set(runs) & set(baseline)) if method != BASELINE else []
    own_scores = {seed: score(run, task) for seed, run in runs.items()}
    paired = np.array([own_scores[seed] - score(baseline[seed], task) for seed in common])
    reached = queries = None
    fewer = kl_there = diversity_there = None
    if task.target is not None:
        spent = _queries(runs, sorted(runs), task.target)
        reached = share_reached(spent)
        queries = float(restricted(spent, task.budget).mean())
        if common:
            theirs = _queries(baseline, common, task.target)
            own = _queries(runs, common, task.target)
            fewer = times_fewer(theirs, own, task.budget)
            kl_there = _at_target(runs, baseline, common, task.target, "kl_to_base")
            diversity_there = _at_target(runs, baseline, common, task.target, "diversity")
    return Row(
        method,
        len(runs) - len(sound),
        interval(np.array([held_out_reward(run, "after") for run in sound])),
        interval(np.array(list(own_scores.values()))),
        interval(paired) if common else None,
        reached,
        queries,
        fewer,
        _metric(sound, "kl_to_base"),
        _metric(sound, "diversity/clip"),
        kl_there,
        diversity_there,
        float(np.mean([run["spent"]["denoiser_evaluations"] for run in runs.values()])),
        float(np.mean([run["spent"]["training_seconds"] for run in runs.values()])),
        _curve(sound),
    )


def _queries(runs: BySeed, seeds: Sequence[int], target: float) -> Array:
    return np.array(
        [
            np.inf
            if runs[seed]["failed"] is not None
            else queries_to_target(runs[seed]["curve"], target)
            for seed in seeds
        ]
    )


def _at_target(
    runs: BySeed, baseline: BySeed, seeds: Sequence[int], target: float, name: str
) -> Interval:
    """A figure minus the baseline's, each at its own first evaluation at the target."""
    differences = []
    for seed in seeds:
        own, other = (
            None if run["failed"] is not None else first_reaching(run["curve"], target)
            for run in (runs[seed], baseline[seed])
        )
        if own is not None and other is not None:
            differences.append(own[name] - other[name])
    return interval(np.array(differences))


def _metric(runs: Sequence[Record], name: str) -> Interval:
    return interval(np.array([np.mean(run["after"]["metrics"][name]) for run in runs]))


CURVE = ("reward_queries", "denoiser_evaluations", "reward", "kl_to_base", "diversity")


def _curve(runs: Sequence[Record]) -> dict[str, list[float]]:
    """Means over the runs at the rounds after which all of them were evaluated."""
    points = [{point["round"]: point for point in run["curve"]} for run in runs]
    rounds = sorted(set.intersection(*(set(each) for each in points))) if points else []
    return {
        name: [float(np.mean([each[r][name] for each in points])) for r in rounds] for name in CURVE
    }
