"""The tables of the comparison, for the terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.comparison import seeds
from benchmarks.comparison.protocol import BASELINE
from benchmarks.tables import markdown_table

Results = dict[str, Any]
Rows = list[list[str]]

COLUMNS = (
    "method",
    "searched",
    "held-out gain [least, most of the seeds]",
    f"more than {BASELINE} [95%]",
    f"queries to {BASELINE}'s final reward",
    "denoiser evaluations",
    "KL to base",
    "CLIP diversity",
)
TRIED = ("method", "searched", "training reward, last rounds")


def comparison(results: Results, task: str) -> Rows:
    """A row per method, as `COLUMNS` say."""
    baseline = seeds.of_method(results["runs"], task, BASELINE)
    return [
        _row(method, seeds.of_method(results["runs"], task, method), baseline)
        for method in results["methods"]
    ]


def _row(
    method: str, runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]
) -> list[str]:
    gains = seeds.gains(runs)
    queries, rewards = seeds.curves(runs, "reward_queries")
    _, target = seeds.curves(baseline, "reward_queries")
    until = _reached(queries, rewards.mean(0), target.mean(0))
    evaluations = np.mean([run["summary"]["denoiser_evaluations"] for run in runs])
    metrics = [run["summary"]["metrics"] for run in runs]
    drift = np.mean([each["kl_to_base"]["after"] for each in metrics])
    diversity = [
        np.mean([each["diversity/clip"][when] for each in metrics]) for when in ("before", "after")
    ]
    return [
        method,
        shown(runs[0]["searched"]),
        f"{gains.mean():+.3f} [{gains.min():+.3f}, {gains.max():+.3f}]",
        "" if method == BASELINE else str(seeds.advantage(runs, baseline)),
        until,
        f"{evaluations:,.0f}",
        f"{drift:.2f}",
        f"{diversity[0]:.3f} → {diversity[1]:.3f}",
    ]


def _reached(queries: seeds.Array, rewards: seeds.Array, baseline: seeds.Array) -> str:
    """Queries until a curve reaches where the baseline's ends; none if that gained nothing."""
    if baseline[-1] <= baseline[0]:
        return "—"
    until = seeds.spent_until(queries, rewards, float(baseline[-1]))
    return "not reached" if np.isinf(until) else f"{until:,.0f}"


def tried(results: Results, task: str) -> Rows:
    """Everything the search tried on a task, as `TRIED` says; each method's choice is marked."""
    rows = []
    for trial in results["search"]:
        if trial["task"] == task:
            chosen = seeds.of_method(results["runs"], task, trial["method"])[0]
            mark = trial["searched"] == chosen["searched"]
            rows.append(
                [
                    trial["method"],
                    shown(trial["searched"]),
                    f"{trial['reward']:.3f}{' (chosen)' if mark else ''}",
                ]
            )
    return sorted(rows, key=lambda row: results["methods"].index(row[0]))


def shown(searched: Mapping[str, float]) -> str:
    """What was searched, as a cell of a table has it."""
    return ", ".join(f"{name.replace('_', ' ')} {searched[name]:g}" for name in sorted(searched))


def rich_table(title: str, columns: Sequence[str], rows: Rows) -> Table:
    """A table for the terminal."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def document(results: Results) -> str:
    """All tables in Markdown."""
    parts = []
    for task in results["tasks"]:
        parts.append(f"## {task}\n\n{markdown_table(COLUMNS, comparison(results, task))}")
        parts.append(f"### What was tried\n\n{markdown_table(TRIED, tried(results, task))}")
    return "\n\n".join(parts) + "\n"
