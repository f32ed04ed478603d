"""LEADERBOARD.md."""

from collections.abc import Mapping
from typing import Any

from benchmarks.leaderboard.report.figures import Report, Row
from benchmarks.leaderboard.report.inputs import BASELINE, Task
from benchmarks.leaderboard.report.reading import reading, shown
from benchmarks.leaderboard.statistics.coverage import worst
from benchmarks.tables import markdown_table

COLUMNS = (
    "method",
    "seeds (failed)",
    "reached the target",
    "queries to the target",
    f"times fewer than {BASELINE}",
    "score",
    f"score above {BASELINE}",
    "held-out reward",
    "KL to base",
    "CLIP diversity",
    "denoiser evaluations",
    "training seconds",
)
FAMILY = (
    "method",
    "seeds",
    f"mean score above {BASELINE}",
    "p, exact",
    "p after Holm",
    "detectable difference",
)


def cells(row: Row) -> list[str]:
    """A method's row, as `COLUMNS` say."""
    return [
        row.method,
        f"{row.score.seeds} ({row.failed})",
        "—" if row.reached is None else f"{row.reached:.0%}",
        "—" if row.queries is None else f"{row.queries:.0f}",
        shown(row.times_fewer, 1),
        shown(row.score),
        shown(row.advantage, sign=True),
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


def about(task: Task) -> str:
    """A task's fixed figures, in a sentence."""
    target = "not fixed yet" if task.target is None else f"{task.target:.4g}"
    return (
        f"Budget {task.budget} reward queries; target {target}; score 0 at {task.untrained:.4g} "
        f"(untrained), 1 at {task.best:.4g} (best known)."
    )


def how(coverage: Mapping[str, Any]) -> str:
    """How the figures were made, with what the intervals cover."""
    covered = ", ".join(
        f"{worst(coverage, n)['Student t']:.1%} at {n}"
        for n in sorted({row["seeds"] for row in coverage["rows"]})
    )
    return (
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
    parts = ["# Leaderboard", "\n".join(f"- {line}" for line in reading(report))]
    if report.runs:
        parts.append(f"{report.runs} runs. {how(coverage)}")
        parts += ["## Mean score over all tasks", markdown_table(FAMILY, family_rows(report))]
    for task in report.tasks:
        rows = [cells(row) for row in report.rows[task.name]]
        parts += [f"## {task.name}", about(task), markdown_table(COLUMNS, rows)]
    if report.stability:
        stable = [[str(s.seeds), f"{s.tau:.2f}", f"{s.same_leader:.0%}"] for s in report.stability]
        parts += [
            "## How many seeds the order needs",
            "Orders from fewer of the seeds against the order from all, over all choices; too good "
            "near the end, since they share seeds.",
            markdown_table(["seeds", "Kendall's τ", "same best method"], stable),
        ]
    return "\n\n".join(parts) + "\n"
