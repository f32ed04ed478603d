"""All methods on all tasks: searched, measured, and gathered."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison.protocol import METHODS, TASKS, Budget, as_json
from benchmarks.comparison.results import measured
from benchmarks.comparison.runs import Run, complete
from benchmarks.comparison.search import Search, Trial, best

Measured = dict[str, Any]
"""The figures of one run."""

Results = dict[str, Any]
"""All figures: ``search`` and ``runs``, with what they are of."""

Pair = tuple[str, str]
"""Task and method."""

Outcome = tuple[list[Trial], list[Measured]]
"""What was tried, and the measured runs."""


def compare(
    budget: Budget,
    tasks: Sequence[str],
    methods: Sequence[str],
    folder: Path,
    workers: int,
    known: Results | None = None,
    after_each: Callable[[Results], None] = lambda _: None,
) -> Results:
    """Searches and measures; returns all figures.

    Args:
        budget: What every method gets.
        tasks: Names in `TASKS`.
        methods: Names in `METHODS`; the baseline must be among them.
        folder: Where the runs go, or where they lie from an earlier time.
        workers: Methods at work at a time.
        known: Figures of an earlier time; what is among them is not run again.
        after_each: Told of the figures so far whenever a method is done with a task.
    """
    if known is not None and known["budget"] != as_json(budget):
        raise ValueError("expected figures of this budget, got those of another: remove them")
    pairs = [(task, method) for task in tasks for method in methods]
    outcomes = _by_pair(known or {"search": [], "runs": []})
    # One thread each: the networks are small, and several at a time use the cores better.
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        futures = {
            pool.submit(tune_and_measure, budget, folder, pair, outcomes.get(pair)): pair
            for pair in pairs
        }
        for future in as_completed(futures):
            outcomes[futures[future]] = future.result()
            after_each(_collected(budget, outcomes))
    return _collected(budget, outcomes)


def _by_pair(results: Results) -> dict[Pair, Outcome]:
    """Trials and measured runs of every task and method."""
    outcomes: dict[Pair, Outcome] = {}
    for trial in results["search"]:
        outcomes.setdefault((trial["task"], trial["method"]), ([], []))[0].append(Trial(**trial))
    for run in results["runs"]:
        outcomes.setdefault((run["task"], run["method"]), ([], []))[1].append(run)
    return outcomes


def _collected(budget: Budget, outcomes: Mapping[Pair, Outcome]) -> Results:
    """All figures, in the order of tasks and methods."""
    tasks = [task for task in TASKS if any(task == known for known, _ in outcomes)]
    methods = [method for method in METHODS if any(method == known for _, known in outcomes)]
    done = [(task, method) for task in tasks for method in methods if (task, method) in outcomes]
    return {
        "budget": as_json(budget),
        "tasks": tasks,
        "methods": methods,
        "search": [trial.as_dict() for pair in done for trial in outcomes[pair][0]],
        "runs": [run for pair in done for run in outcomes[pair][1]],
    }


def tune_and_measure(budget: Budget, folder: Path, pair: Pair, known: Outcome | None) -> Outcome:
    """Everything that was tried for a method on a task, and its measured runs.

    Args:
        budget: What every method gets.
        folder: Where the runs go.
        pair: Task and method.
        known: What was tried and measured at an earlier time.
    """
    task, method = pair
    known_trials, known_runs = known or ([], [])
    trials = Search(budget, folder / "search", known_trials)(task, method)
    chosen = best(trials)
    finished = {run["seed"]: run for run in known_runs if run["searched"] == chosen.searched}
    for seed in budget.seeds:
        if seed not in finished:
            path = folder / "measured" / task / method / f"{chosen.name}-seed{seed}"
            run = complete(Run(path, budget.measured(task, method, seed) | chosen.searched))
            finished[seed] = measured(task, method, chosen.searched, run.folder)
    return trials, [finished[seed] for seed in budget.seeds]
