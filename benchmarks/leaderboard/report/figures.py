"""Everything that a report tells, computed from the records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from benchmarks.leaderboard.protocol import Protocol, Task
from benchmarks.leaderboard.record import Record
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
        evaluations_there: The same of the denoiser evaluations until then.
        times_fewer: How many times fewer queries than the baseline's; None for it, or without a
            target.
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
    evaluations_there: float | None
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
class Pair:
    """Two methods on a task, with the same seeds.

    Attributes:
        method: The one.
        other: The other.
        advantage: The one's score minus the other's.
        times_fewer: How many times fewer queries the one needs to the target; None without one.
    """

    method: str
    other: str
    advantage: Interval
    times_fewer: Interval | None


@dataclass(frozen=True)
class Report:
    """All figures.

    Attributes:
        baseline: The method that the others are compared with.
        tasks: The tasks that have records.
        planned: How many tasks the protocol has.
        methods: The methods, the baseline first, then by name.
        rows: The methods of each task, the best first.
        pairs: Of each task, every method with every other, by both names.
        family: The confirmatory family, the best first.
        stability: Of the order of methods by their mean score over the tasks, over the seeds that
            all of them have; empty where there is no such order.
        runs: How many runs there are.
        wanted: How many there will be: of these methods, all tasks and seeds of the protocol.
    """

    baseline: str
    tasks: Sequence[Task]
    planned: int
    methods: Sequence[str]
    rows: Mapping[str, Sequence[Row]]
    pairs: Mapping[str, Mapping[tuple[str, str], Pair]]
    family: Sequence[Verdict]
    stability: Sequence[Stability]
    runs: int
    wanted: int


def report(protocol: Protocol, records: Sequence[Record]) -> Report:
    """The figures of all measured records of a protocol."""
    tasks, baseline = list(protocol.tasks.values()), protocol.baseline
    runs: dict[tuple[str, str], dict[int, Record]] = {}
    for record in records:
        runs.setdefault((record["task"], record["method"]), {})[record["seed"]] = record
    methods = sorted({method for _, method in runs}, key=lambda name: (name != baseline, name))
    present = [task for task in tasks if any(name == task.name for name, _ in runs)]
    rows = {
        task.name: sorted(
            (
                _row(task, method, baseline, runs)
                for method in methods
                if (task.name, method) in runs
            ),
            key=lambda row: -row.score.mean,
        )
        for task in present
    }
    pairs = {
        task.name: {
            (method, other): _pair(task, method, other, runs)
            for method, other in permutations(methods, 2)
            if (task.name, method) in runs and (task.name, other) in runs
        }
        for task in present
    }
    scores = {
        method: _mean_scores(tasks, [runs.get((task.name, method), {}) for task in tasks])
        for method in methods
    }
    return Report(
        baseline,
        present,
        len(tasks),
        methods,
        rows,
        pairs,
        _family(scores, baseline),
        _stability(scores),
        len(records),
        len(tasks) * len(methods) * len(protocol.seeds),
    )


def held_out_reward(record: Record, when: str) -> float:
    """Mean over the prompts of the mean over their images, without images that have none."""
    rewards = np.array(record[when]["rewards"], dtype=float)
    return float(np.nanmean(np.nanmean(rewards, axis=1)))


def score(record: Record, task: Task) -> float:
    """(reward - untrained) / (best - untrained); 0 of a run that failed."""
    if record["failed"] is not None:
        return 0.0
    return task.score(held_out_reward(record, "after"))


def _mean_scores(tasks: Sequence[Task], runs: Sequence[BySeed]) -> dict[int, float]:
    """The mean over all tasks by seed, of the seeds that all tasks have."""
    seeds = set.intersection(*(set(each) for each in runs)) if runs else set()
    return {
        seed: float(np.mean([score(each[seed], t) for each, t in zip(runs, tasks, strict=True)]))
        for seed in sorted(seeds)
    }


def _family(scores: Mapping[str, Mapping[int, float]], compared_with: str) -> list[Verdict]:
    methods = [method for method in scores if method != compared_with]
    baseline = scores.get(compared_with, {})
    pairs = {}
    for method in methods:
        seeds = sorted(set(scores[method]) & set(baseline))
        pairs[method] = np.array([scores[method][seed] - baseline[seed] for seed in seeds])
    # A method that cannot be tested stays in the family: it was meant to be compared.
    p = {m: sign_flip(d) for m, d in pairs.items() if _enough(d, len(methods))}
    values = [p.get(method, 1.0) for method in methods]
    adjusted = dict(zip(methods, holm(values), strict=True)) if methods else {}
    verdicts = [
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
    return sorted(verdicts, key=lambda v: -np.nan_to_num(v.difference.mean, nan=-np.inf))


def _enough(differences: Array, methods: int) -> bool:
    return len(differences) > 1 and smallest_p(len(differences)) <= ALPHA / methods


def _stability(scores: Mapping[str, Mapping[int, float]]) -> list[Stability]:
    complete = [each for each in scores.values() if each]
    common = sorted(set.intersection(*map(set, complete))) if complete else []
    if len(complete) < 2 or len(common) < 2:
        return []
    return rank_stability(np.array([[each[seed] for seed in common] for each in complete]))


def _row(task: Task, method: str, baseline: str, all_runs: Mapping[tuple[str, str], BySeed]) -> Row:
    runs = all_runs[task.name, method]
    sound = [run for run in runs.values() if run["failed"] is None]
    reached = queries = evaluations_there = None
    if task.target is not None:
        spent = _queries(runs, sorted(runs), task.target)
        reached = share_reached(spent)
        queries = float(restricted(spent, task.queries).mean())
        evaluations_there = float(np.mean([_evaluations(r, task.target) for r in runs.values()]))
    # Against the baseline, with the seeds that both have.
    theirs = all_runs.get((task.name, baseline), {}) if method != baseline else {}
    common = sorted(set(runs) & set(theirs))
    pair = _pair(task, method, baseline, all_runs) if common else None
    kl_there = diversity_there = None
    if common and task.target is not None:
        kl_there = _at_target(runs, theirs, common, task.target, "kl_to_base")
        diversity_there = _at_target(runs, theirs, common, task.target, "diversity")
    return Row(
        method,
        len(runs) - len(sound),
        interval(np.array([held_out_reward(run, "after") for run in sound])),
        interval(np.array([score(run, task) for run in runs.values()])),
        pair.advantage if pair else None,
        reached,
        queries,
        evaluations_there,
        pair.times_fewer if pair else None,
        _metric(sound, "kl_to_base"),
        _metric(sound, "diversity/clip"),
        kl_there,
        diversity_there,
        float(np.mean([run["spent"]["denoiser_evaluations"] for run in runs.values()])),
        float(np.mean([run["spent"]["training_seconds"] for run in runs.values()])),
        _curve(sound),
    )


def _pair(task: Task, method: str, other: str, runs: Mapping[tuple[str, str], BySeed]) -> Pair:
    own, theirs = runs[task.name, method], runs[task.name, other]
    common = sorted(set(own) & set(theirs))
    differences = [score(own[seed], task) - score(theirs[seed], task) for seed in common]
    fewer = None
    if task.target is not None and common:
        fewer = times_fewer(
            _queries(theirs, common, task.target), _queries(own, common, task.target), task.queries
        )
    return Pair(method, other, interval(np.array(differences)), fewer)


def _queries(runs: BySeed, seeds: Sequence[int], target: float) -> Array:
    return np.array(
        [
            np.inf
            if runs[seed]["failed"] is not None
            else queries_to_target(runs[seed]["curve"], target)
            for seed in seeds
        ]
    )


def _evaluations(run: Record, target: float) -> float:
    """Denoiser evaluations until the target, or all of a run that never reached it."""
    point = None if run["failed"] is not None else first_reaching(run["curve"], target)
    return float(point["denoiser_evaluations"] if point else run["spent"]["denoiser_evaluations"])


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
