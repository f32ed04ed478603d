"""The README's pictures: held-out reward against reward queries, light and dark."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

from benchmarks.leaderboard.report.figures import Report

matplotlib.use("Agg")
from matplotlib import pyplot as plt

THEMES = {"light": "#1f2328", "dark": "#e6edf3"}
"""The colour of text and axes; the ground is transparent."""
COLORS = (
    *("#8b949e", "#2f81f7", "#e3742f", "#2da44e", "#cf4a9a", "#9a6ee0", "#b58900", "#20a5a5"),
    *("#d1242f", "#7d8f29", "#a0765b", "#5b7fb5"),
)
"""A method's colour by its place, the baseline's first; readable on light and dark."""
SYMBOLS = (("circle", ".-"), ("diamond", "d--"), ("square", "s:"))
"""Its mark, where there are more methods than colours, for plotly and for matplotlib."""


class Look(NamedTuple):
    """How a method is drawn: colour, plotly's symbol, and matplotlib's marks and line."""

    color: str
    symbol: str
    marks: str


def look(report: Report, method: str) -> Look:
    """How a method is drawn, by its place among all."""
    again, place = divmod(report.methods.index(method), len(COLORS))
    return Look(COLORS[place], *SYMBOLS[again])


def digest(report: Report) -> str:
    """What the picture is of, as a SHA-256; drawn pixels differ between versions of matplotlib."""
    drawn = {
        task: [
            [row.method, _rounded(row.curve["reward_queries"]), _rounded(row.curve["reward"])]
            for row in rows
        ]
        for task, rows in report.rows.items()
    }
    return hashlib.sha256(json.dumps([drawn, list(report.methods)]).encode()).hexdigest()


def _rounded(values: object) -> list[str]:
    return [f"{value:.6g}" for value in values]  # type: ignore[attr-defined]


def digest_in(path: Path) -> str | None:
    """The digest that a picture was drawn with; None if there is none."""
    if not path.is_file():
        return None
    found = re.search(r"<dc:description>([0-9a-f]{64})<", path.read_text(encoding="utf-8"))
    return found[1] if found else None


def draw(report: Report, path: Path, theme: str) -> None:
    """Draws a panel for every task; an empty one without records.

    Args:
        report: The figures.
        path: Where the SVG goes.
        theme: A name in `THEMES`.
    """
    ink = THEMES[theme]
    style: Any = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink
    )
    count = max(len(report.tasks), 1)
    with plt.rc_context({**style, "svg.hashsalt": "leaderboard", "svg.fonttype": "path"}):
        figure, axes = plt.subplots(
            1, count, figsize=(4.2 * count + 1.8, 3.8), squeeze=False, layout="constrained"
        )
        for axis, task in zip(axes[0], report.tasks, strict=False):
            for row in report.rows[task.name]:
                drawn = look(report, row.method)
                curve = row.curve
                axis.plot(
                    curve["reward_queries"],
                    curve["reward"],
                    drawn.marks,
                    color=drawn.color,
                    label=row.method,
                )
            if task.target is not None:
                axis.axhline(task.target, color=ink, lw=0.8, ls=":")
            axis.set(title=task.name, xlabel="reward queries", ylabel="held-out reward")
            axis.grid(alpha=0.2)
        for axis in axes[0]:
            axis.patch.set_alpha(0)
            axis.spines[["top", "right"]].set_visible(False)
        if report.tasks:
            axes[0][-1].legend(
                fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
            )
        else:
            axes[0][0].text(0.5, 0.5, "no runs measured yet", ha="center")
        figure.savefig(
            path,
            transparent=True,
            bbox_inches="tight",
            metadata={"Date": None, "Creator": None, "Description": digest(report)},
        )
        plt.close(figure)
