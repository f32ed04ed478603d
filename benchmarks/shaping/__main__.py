"""Compares reward shapings at equal reward queries: ``python -m benchmarks.shaping``.

Every method is tuned with the same budget, then trained with several seeds. What is finished is
kept: the command may be stopped at any time and given again.
"""

import argparse
import functools
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from agents.runs.run_folder import write_json
from benchmarks.shaping import curves, report
from benchmarks.shaping.protocol import BASELINE, METHODS, TASKS, Budget
from benchmarks.shaping.results import measured
from benchmarks.shaping.runs import Run, complete
from benchmarks.shaping.search import Search, Trial, best

RESULTS = Path(__file__).parents[1] / "results"


def compare(
    budget: Budget, tasks: Sequence[str], methods: Sequence[str], folder: Path, workers: int
) -> dict[str, Any]:
    """Searches and measures; returns all figures.

    Args:
        budget: What every method gets.
        tasks: Names in `TASKS`.
        methods: Names in `METHODS`; the baseline must be among them.
        folder: Where the runs go, or where they lie from an earlier time.
        workers: Methods at work at a time.
    """
    pairs = [(task, method) for task in tasks for method in methods]
    tune_and_measure = functools.partial(_tune_and_measure, budget, folder)
    # One thread each: the networks are small, and several at a time use the cores better.
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        outcomes = list(pool.map(tune_and_measure, *zip(*pairs, strict=True)))
    return {
        "budget": asdict(budget),
        "tasks": list(tasks),
        "methods": list(methods),
        "search": [trial.as_dict() for trials, _ in outcomes for trial in trials],
        "runs": [run for _, runs in outcomes for run in runs],
    }


def _tune_and_measure(
    budget: Budget, folder: Path, task: str, method: str
) -> tuple[list[Trial], list[dict[str, Any]]]:
    """Everything that was tried for a method on a task, and its measured runs."""
    trials = Search(budget, folder / "search")(task, method)
    chosen = best(trials)
    searched = {"learning_rate": chosen.learning_rate, "clip_range": chosen.clip_range}
    runs = []
    for seed in budget.seeds:
        path = folder / "measured" / task / method / f"{chosen.name}-seed{seed}"
        run = complete(Run(path, budget.measured(task, method, seed) | searched))
        runs.append(measured(task, method, run.folder))
    return trials, runs


def publish(results: dict[str, Any], folder: Path, console: Console) -> None:
    """Prints the tables, and writes figures, tables and picture."""
    for task in results["tasks"]:
        console.print(report.rich_table(task, report.COLUMNS, report.comparison(results, task)))
        tried = report.tried(results, task)
        console.print(report.rich_table(f"{task}: what was tried", report.TRIED, tried))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "shaping.json", results)
    (folder / "shaping.md").write_text(report.document(results), encoding="utf-8")
    curves.draw(results, folder / "shaping.png")


def main() -> None:
    """Runs the comparison; or only reads kept figures again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="methods at a time")
    parser.add_argument("--output", type=Path, default=Path("runs/shaping"), help="the runs")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--results",
        type=Path,
        default=Path("runs/shaping/results"),
        help="figures, tables, picture",
    )
    where.add_argument(
        "--publish",
        dest="results",
        action="store_const",
        const=RESULTS,
        help="replace the results that are kept in the repository",
    )
    parser.add_argument(
        "--report-only",
        action="store_true",
        help="of the figures in --results",
    )
    options = parser.parse_args()
    if BASELINE not in options.methods:
        parser.error(f"--methods must name the baseline, {BASELINE!r}")
    if options.report_only:
        results = json.loads((options.results / "shaping.json").read_text())
    else:
        results = compare(Budget(), options.tasks, options.methods, options.output, options.workers)
    publish(results, options.results, Console(width=None))


if __name__ == "__main__":
    main()
