"""Everything that a report tells, computed from the records."""

from collections.abc import Iterable, Mapping, Sequence
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
    Point,
    first_reaching,
    queries_to_target,
    restricted,
    share_reached,
    times_fewer,
)

BySeed = Mapping[int, Record]


@dataclass(frozen=True)
class Reaching:
    """A method's way to a reward.

    Attributes:
        share: Share of runs that reached it.
        queries: Restricted mean of the reward queries until then.
        evaluations: Mean of the denoiser evaluations until then, or of the whole run.
    """

    share: float
    queries: Interval
    evaluations: float


@dataclass(frozen=True)
class Pair:
    """Two methods on a task, with the same seeds.

    Attributes:
        method: The one.
        other: The other.
        advantage: The one's score minus the other's.
        compared: The same after as many denoiser evaluations as the task is compared at; None
            without.
        times_fewer: How many times fewer queries the one needs to the target; None without one, or
            where one of the two trains nothing.
        kl_at_target: The one's KL divergence minus the other's, each when it first had the target's
            reward, over the seeds with which both had; None likewise.
        diversity_at_target: The same of the diversity.
    """

    method: str
    other: str
    advantage: Interval
    compared: Interval | None
    times_fewer: Interval | None
    kl_at_target: Interval | None
    diversity_at_target: Interval | None


@dataclass(frozen=True)
class Row:
    """A method on a task.

    Attributes:
        method: Its name.
        failed: How many of its runs failed; they are among the seeds, with a gain of 0.
        reward: Held-out reward after training.
        score: The same, normalised.
        baseline: It against the baseline; None for the baseline, or without a seed that both have.
        compared: Score after as many denoiser evaluations as the task is compared at; None without.
        target: Its way to the target; None without a target, or where nothing is trained.
        record: Its way to the record's reward; likewise.
        kl: KL divergence to the base model after training.
        diversity: CLIP diversity of a prompt's images after training.
        others: Held-out means after training of the rewards that were not trained on, by name.
        evaluations: Denoiser evaluations of a run.
        seconds: Training seconds of a run.
        curve: What was spent, the reward and what it cost, as means over the seeds.
    """

    method: str
    failed: int
    reward: Interval
    score: Interval
    baseline: Pair | None
    compared: Interval | None
    target: Reaching | None
    record: Reaching | None
    kl: Interval
    diversity: Interval
    others: Mapping[str, Interval]
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
    pairs = {
        task.name: {
            (method, other): _pair(task, method, other, runs)
            for method, other in permutations(methods, 2)
            if (task.name, method) in runs and (task.name, other) in runs
        }
        for task in present
    }
    rows = {
        task.name: sorted(
            (
                _row(
                    task, method, runs[task.name, method], pairs[task.name].get((method, baseline))
                )
                for method in methods
                if (task.name, method) in runs
            ),
            key=lambda row: -row.score.mean,
        )
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
    return _over_prompts(record[when]["rewards"])


def _over_prompts(rewards: Sequence[Sequence[float]]) -> float:
    return float(np.nanmean(np.nanmean(np.array(rewards, dtype=float), axis=1)))


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


def _row(task: Task, method: str, runs: BySeed, baseline: Pair | None) -> Row:
    sound = [run for run in runs.values() if run["failed"] is None]
    return Row(
        method,
        len(runs) - len(sound),
        interval(np.array([held_out_reward(run, "after") for run in sound])),
        interval(np.array([score(run, task) for run in runs.values()])),
        baseline if baseline and baseline.advantage.seeds else None,
        _compared(task, runs.values()),
        _reaching(task, runs, task.target),
        _reaching(task, runs, task.record),
        _metric(sound, "kl_to_base"),
        _metric(sound, "diversity/clip"),
        _others(sound),
        float(np.mean([run["spent"]["denoiser_evaluations"] for run in runs.values()])),
        float(np.mean([run["spent"]["training_seconds"] for run in runs.values()])),
        _curve(sound),
    )


def _pair(task: Task, method: str, other: str, runs: Mapping[tuple[str, str], BySeed]) -> Pair:
    own, theirs = runs[task.name, method], runs[task.name, other]
    common = sorted(set(own) & set(theirs))
    both = [(own[seed], theirs[seed]) for seed in common]
    advantage = interval(np.array([score(a, task) - score(b, task) for a, b in both]))
    compared = None
    if (at := task.compared_at) is not None:
        differences = [score_at(a, task, at) - score_at(b, task, at) for a, b in both]
        compared = interval(np.array(differences))
    if task.target is None or not (common and _trains(own) and _trains(theirs)):
        return Pair(method, other, advantage, compared, None, None, None)
    return Pair(
        method,
        other,
        advantage,
        compared,
        times_fewer(
            _queries(theirs, common, task.target), _queries(own, common, task.target), task.queries
        ),
        _at_target(both, task.target, "kl_to_base"),
        _at_target(both, task.target, "diversity"),
    )


def score_at(record: Record, task: Task, evaluations: int) -> float:
    """A run's score when it had last been evaluated within so many denoiser evaluations."""
    if record["failed"] is not None:
        return 0.0
    within = [p for p in record["curve"] if p["denoiser_evaluations"] <= evaluations]
    return task.score(within[-1]["reward"])


def _compared(task: Task, runs: Iterable[Record]) -> Interval | None:
    if task.compared_at is None:
        return None
    return interval(np.array([score_at(run, task, task.compared_at) for run in runs]))


def _trains(runs: BySeed) -> bool:
    return any(run["spent"]["reward_queries"] or run["failed"] is not None for run in runs.values())


def _reaching(task: Task, runs: BySeed, reward: float | None) -> Reaching | None:
    if reward is None or not _trains(runs):
        return None
    spent = _queries(runs, sorted(runs), reward)
    return Reaching(
        share_reached(spent),
        interval(restricted(spent, task.queries)),
        float(np.mean([_evaluations(run, reward) for run in runs.values()])),
    )


def _queries(runs: BySeed, seeds: Sequence[int], reward: float) -> Array:
    return np.array(
        [
            np.inf
            if runs[seed]["failed"] is not None
            else queries_to_target(runs[seed]["curve"], reward)
            for seed in seeds
        ]
    )


def _evaluations(run: Record, reward: float) -> float:
    """Denoiser evaluations until a reward, or all of a run that never reached it."""
    return float((_first_reaching(run, reward) or run["spent"])["denoiser_evaluations"])


def _at_target(both: Sequence[tuple[Record, Record]], target: float, name: str) -> Interval:
    """One run's figure minus another's, each at its own first evaluation at the target."""
    points = [(_first_reaching(a, target), _first_reaching(b, target)) for a, b in both]
    return interval(np.array([a[name] - b[name] for a, b in points if a and b]))


def _first_reaching(run: Record, reward: float) -> Point | None:
    return None if run["failed"] is not None else first_reaching(run["curve"], reward)


def _metric(runs: Sequence[Record], name: str) -> Interval:
    return interval(np.array([np.mean(run["after"]["metrics"][name]) for run in runs]))


def _others(runs: Sequence[Record]) -> dict[str, Interval]:
    found = [run["after"]["other_rewards"] for run in runs]
    names = sorted(set.intersection(*map(set, found))) if found else []
    return {
        name: interval(np.array([_over_prompts(each[name]) for each in found])) for name in names
    }


CURVE = ("reward_queries", "denoiser_evaluations", "reward", "kl_to_base", "diversity")


def _curve(runs: Sequence[Record]) -> dict[str, list[float]]:
    """Means over the runs at the rounds after which all of them were evaluated."""
    points = [{point["round"]: point for point in run["curve"]} for run in runs]
    rounds = sorted(set.intersection(*(set(each) for each in points))) if points else []
    return {
        name: [float(np.mean([each[r][name] for each in points])) for r in rounds] for name in CURVE
    }
