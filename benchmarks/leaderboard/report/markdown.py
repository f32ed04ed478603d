"""LEADERBOARD.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.leaderboard.protocol import Task
from benchmarks.leaderboard.report.figures import Report, Row
from benchmarks.leaderboard.report.reading import ASKED, reading, shown, task_reading
from benchmarks.leaderboard.statistics.coverage import worst
from benchmarks.leaderboard.statistics.intervals import Array
from benchmarks.leaderboard.statistics.pareto import pareto_front
from benchmarks.tables import markdown_table

COLUMNS = (
    "method",
    "seeds (failed)",
    "reached the target",
    "queries to the target",
    "times fewer than the baseline",
    "denoiser evaluations to the target",
    "score",
    "score above the baseline",
    "score at equal denoiser evaluations",
    "held-out reward",
    "KL to base",
    "CLIP diversity",
    "denoiser evaluations",
    "training seconds",
)

PAIRS = (
    "method",
    "against",
    "score above",
    "the same, at equal denoiser evaluations",
    "times fewer queries to the target",
    "KL to base, when first at the target",
    "CLIP diversity, when first at the target",
    "seeds with which both got there",
)
RECORD = ("method", "seeds that got there", "reward queries", "denoiser evaluations")
OTHERS = "Held-out rewards after training that were not trained on"
FAMILY = (
    "method",
    "seeds",
    "mean score above the baseline",
    "p, exact",
    "p after Holm",
    "detectable difference",
)


def cells(row: Row) -> list[str]:
    """A method's row, as `COLUMNS` say."""
    target, baseline = row.target, row.baseline
    return [
        row.method,
        f"{row.score.seeds} ({row.failed})",
        "—" if target is None else f"{target.share:.0%}",
        "—" if target is None else f"{target.queries.mean:.0f}",
        shown(baseline.times_fewer if baseline else None, 1),
        "—" if target is None else f"{target.evaluations:,.0f}",
        shown(row.score),
        shown(baseline.advantage if baseline else None, sign=True),
        shown(row.compared),
        shown(row.reward),
        shown(row.kl, 2),
        shown(row.diversity),
        f"{row.evaluations:,.0f}",
        f"{row.seconds:.0f}",
    ]


def family_rows(report: Report) -> list[list[str]]:
    """The confirmatory family, as `FAMILY` says."""
    return [
        [
            v.method,
            str(v.difference.seeds),
            shown(v.difference, sign=True),
            v.missing if v.p is None else f"{v.p:.4f}",
            v.missing if v.adjusted is None else f"{v.adjusted:.4f}",
            "—" if v.detectable is None else f"{v.detectable:.3f}",
        ]
        for v in report.family
    ]


def pair_rows(report: Report, task: Task) -> list[list[str]]:
    """The pairs that are asked for, as `PAIRS` says."""
    pairs = report.pairs[task.name]
    found = [pairs[names] for names in ASKED if names in pairs]
    return [
        [
            p.method,
            p.other,
            shown(p.advantage, sign=True),
            shown(p.compared, sign=True),
            shown(p.times_fewer, 1),
            shown(p.kl_at_target, 2, sign=True),
            shown(p.diversity_at_target, sign=True),
            "—" if p.kl_at_target is None else str(p.kl_at_target.seeds),
        ]
        for p in found
    ]


def other_names(report: Report, task: Task) -> list[str]:
    """The rewards that were not trained on, of which all methods have figures."""
    return sorted(set.intersection(*(set(row.others) for row in report.rows[task.name])))


def other_rows(report: Report, task: Task) -> list[list[str]]:
    """What each method leaves of them, in the order of the methods."""
    names = other_names(report, task)
    return [
        [row.method, *(shown(row.others[name]) for name in names)] for row in report.rows[task.name]
    ]


def record_rows(report: Report, task: Task) -> list[list[str]]:
    """Who gets to the record's reward, with the fewest queries first, as `RECORD` says."""
    there = [(row.method, row.record) for row in report.rows[task.name] if row.record]
    return [
        [method, f"{way.share:.0%}", shown(way.queries, 0), f"{way.evaluations:,.0f}"]
        for method, way in sorted(there, key=lambda each: each[1].queries.mean)
        if way.share
    ]


def record_title(task: Task) -> str:
    """What the table of the record is of."""
    return f"The record: fewest reward queries to {task.record:.2f}"


def fronts(report: Report, task: Task) -> list[str]:
    """Which methods no other one beats at its price, a sentence for each price."""
    rows, lines = report.rows[task.name], []
    for name, cost in prices(rows).items():
        front = pareto_front(np.array([row.reward.mean for row in rows]), cost)
        lines.append(
            f"No method has both more reward and {name} than: "
            f"{', '.join(rows[k].method for k in front)}."
        )
    return lines


def prices(rows: Sequence[Row]) -> dict[str, Array]:
    """What the reward is paid with, ``[N]`` each, less of it being better."""
    return {
        "a smaller KL divergence": np.array([row.kl.mean for row in rows]),
        "more diversity": -np.array([row.diversity.mean for row in rows]),
        "fewer denoiser evaluations": np.array([row.evaluations for row in rows]),
    }


def about(task: Task) -> str:
    """A task's fixed figures, in a sentence."""
    target, untrained, best = (
        "not fixed yet" if value is None else f"{value:.4g}"
        for value in (task.target, task.untrained, task.best)
    )
    compared = ""
    if task.compared_at is not None:
        compared = f" Scores at equal denoiser evaluations are after {task.compared_at:,} at most."
    return (
        f"{task.title}: {task.queries} reward queries; target {target}; score 0 at {untrained} "
        f"(untrained), 1 at {best} (best known).{compared}"
    )


def how(report: Report, coverage: Mapping[str, Any]) -> str:
    """Of how many runs the figures are, how they were made, and what the intervals cover."""
    covered = ", ".join(
        f"{worst(coverage, n)['Student t']:.1%} at {n}"
        for n in sorted({row["seeds"] for row in coverage["rows"]})
    )
    return (
        f"{report.runs} runs; the baseline is {report.baseline}. "
        "Means over seeds with 95% intervals by Student's t, differences paired by seed. In "
        "simulation, over a normal, a skewed, a bimodal and a cut distribution, such an interval "
        f"covers at least {covered} seeds, less than it promises where the results are skewed. "
        "Queries are counted in whole rounds; a run that "
        "does not reach the target, or fails, counts with its whole budget (restricted mean), and "
        "a failed run has score 0. Only the test of the mean score over all tasks is confirmatory "
        "(exact sign-flip test, Holm); all other intervals are not corrected for their number."
    )


def document(report: Report, coverage: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    parts = ["# Leaderboard"]
    if report.runs:
        parts += ["## Mean score over all tasks", markdown_table(FAMILY, family_rows(report))]
    parts.append(_list(reading(report)))
    if report.runs:
        parts.append(how(report, coverage))
    for task in report.tasks:
        rows = [cells(row) for row in report.rows[task.name]]
        parts += [f"## {task.name}", about(task), markdown_table(COLUMNS, rows)]
        parts.append(_list([*fronts(report, task), *task_reading(report, task.name)]))
        if pairs := pair_rows(report, task):
            parts += ["### Between methods", markdown_table(PAIRS, pairs)]
        if names := other_names(report, task):
            parts += [f"### {OTHERS}", markdown_table(["method", *names], other_rows(report, task))]
        if record := record_rows(report, task):
            parts += [f"### {record_title(task)}", markdown_table(RECORD, record)]
    if report.stability:
        stable = [[str(s.seeds), f"{s.tau:.2f}", f"{s.same_leader:.0%}"] for s in report.stability]
        parts += [
            "## How many seeds the order needs",
            "Orders from fewer of the seeds against the order from all, over all choices; too good "
            "near the end, since they share seeds.",
            markdown_table(["seeds", "Kendall's τ", "same best method"], stable),
        ]
    return "\n\n".join(parts) + "\n"


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
