"""Compares methods at equal reward queries: ``python -m benchmarks.comparison``.

Every method is tuned with the same budget, then trained with several seeds. What is finished is
kept: the command may be stopped at any time and given again.
"""

import argparse
import json
import os
from pathlib import Path

from rich.console import Console

from agents.runs.run_folder import write_json
from benchmarks.comparison import curves, report
from benchmarks.comparison.compare import Results, compare
from benchmarks.comparison.protocol import BASELINE, BUDGETS, METHODS, TASKS

RESULTS = Path(__file__).parents[1] / "results"


def publish(results: Results, folder: Path, name: str, console: Console) -> None:
    """Prints the tables, and writes figures, tables and picture as NAME.json, .md and .png."""
    for task in results["tasks"]:
        console.print(report.rich_table(task, report.COLUMNS, report.comparison(results, task)))
        tried = report.tried(results, task)
        console.print(report.rich_table(f"{task}: what was tried", report.TRIED, tried))
    write(results, folder, name)
    (folder / f"{name}.md").write_text(report.document(results), encoding="utf-8")
    curves.draw(results, folder / f"{name}.png")


def write(results: Results, folder: Path, name: str) -> None:
    """Writes the figures as NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", results)


def main() -> None:
    """Runs the comparison; or only reads kept figures again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--budget", choices=BUDGETS, default="256", help="reward queries of a run (default: 256)"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="default: the budget's")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: the budget's")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="methods at a time")
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"), help="the runs")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--results",
        type=Path,
        default=Path("runs/comparison/results"),
        help="figures, tables, picture; figures that are there are not measured again",
    )
    where.add_argument(
        "--publish",
        dest="results",
        action="store_const",
        const=RESULTS,
        help="the results that are kept in the repository",
    )
    parser.add_argument(
        "--report-only",
        action="store_true",
        help="of the figures in --results",
    )
    options = parser.parse_args()
    budget, name = BUDGETS[options.budget], f"comparison-{options.budget}"
    methods = options.methods or budget.methods
    if BASELINE not in methods:
        parser.error(f"--methods must name the baseline, {BASELINE!r}")
    kept = options.results / f"{name}.json"
    known: Results | None = None
    if kept.is_file() or options.report_only:
        known = json.loads(kept.read_text())
    if options.report_only and known is not None:
        results = known
    else:
        results = compare(
            budget,
            options.tasks or budget.tasks,
            methods,
            options.output / options.budget,
            options.workers,
            known=known,
            after_each=lambda so_far: write(so_far, options.results, name),
        )
    publish(results, options.results, name, Console(width=None))


if __name__ == "__main__":
    main()
