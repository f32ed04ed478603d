"""The page of HTML: one file that needs no network."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.leaderboard.report.figures import Report, Row
from benchmarks.leaderboard.report.inputs import Task
from benchmarks.leaderboard.report.markdown import COLUMNS, FAMILY, about, cells, family_rows, how
from benchmarks.leaderboard.report.pictures import COLORS
from benchmarks.leaderboard.report.reading import reading

LIBRARY = "/* plotly.js */"
"""Stands where the library is put in, which is no part of what the records give."""

AGAINST = {
    "reward_queries": "reward queries",
    "denoiser_evaluations": "denoiser evaluations",
    "kl_to_base": "KL divergence to the base model",
    "diversity": "CLIP diversity of a prompt's images",
}
"""What the reward is drawn against."""


def document(report: Report, coverage: Mapping[str, Any]) -> str:
    """The page, with `LIBRARY` where plotly.js belongs."""
    body = ["<h1>Leaderboard</h1>", _list(reading(report))]
    if report.runs:
        body += [f"<p>{report.runs} runs. {_text(how(coverage))}</p>"]
        body += ["<h2>Mean score over all tasks</h2>", _table(FAMILY, family_rows(report))]
    charts: list[Mapping[str, Any]] = []
    for task in report.tasks:
        rows = report.rows[task.name]
        body += [f"<h2>{_text(task.name)}</h2>", f"<p>{_text(about(task))}</p>"]
        body += [_table(COLUMNS, [cells(row) for row in rows]), "<div class='charts'>"]
        for cost, label in AGAINST.items():
            name = f"chart{len(charts)}"
            body.append(f"<div class='chart' id='{name}'></div>")
            charts.append(_chart(name, report, task, cost, label))
        body.append("</div>")
    if report.stability:
        body += ["<h2>How many seeds the order needs</h2>"]
        body += ["<div class='chart' id='stability'></div>", f"<p>{_text(STABLE)}</p>"]
        charts.append(_stability(report))
    data = json.dumps(charts, sort_keys=True).replace("</", "<\\/")
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    return template.replace("{{body}}", "\n".join(body)).replace("{{charts}}", data)


STABLE = (
    "Orders from fewer of the seeds against the order from all, over all choices; too good near "
    "the end, since they share seeds."
)


def _text(text: str) -> str:
    return html.escape(text)


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    head = "".join(f"<th><button>{_text(name)}</button></th>" for name in header)
    lines = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        "</div>"
    )


def _chart(name: str, report: Report, task: Task, cost: str, label: str) -> dict[str, Any]:
    """Mean held-out reward along training against what it cost, a line per method."""
    lines = [_line(row, report.methods.index(row.method), cost) for row in report.rows[task.name]]
    marks = []
    if task.target is not None:
        marks = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": task.target,
                "y1": task.target,
                "line": {"dash": "dot", "width": 1, "color": "#8b949e"},
            }
        ]
    axis: dict[str, Any] = {"title": {"text": label}}
    if cost == "diversity":
        axis["autorange"] = "reversed"  # what is lost grows to the right in all charts
    return {
        "id": name,
        "data": lines,
        "layout": {"xaxis": axis, "yaxis": {"title": {"text": "held-out reward"}}, "shapes": marks},
    }


def _line(row: Row, place: int, cost: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": row.method,
        "x": [float(f"{value:.6g}") for value in row.curve[cost]],
        "y": [float(f"{value:.6g}") for value in row.curve["reward"]],
        "line": {"color": COLORS[place % len(COLORS)]},
        "hovertemplate": "%{y:.3f} at %{x:.4g}",
    }


def _stability(report: Report) -> dict[str, Any]:
    seeds = [each.seeds for each in report.stability]
    return {
        "id": "stability",
        "data": [
            {"type": "scatter", "name": name, "x": seeds, "y": [round(y, 6) for y in values]}
            for name, values in (
                ("Kendall's τ", [each.tau for each in report.stability]),
                ("same best method", [each.same_leader for each in report.stability]),
            )
        ],
        "layout": {"xaxis": {"title": {"text": "seeds"}, "dtick": 1}, "yaxis": {}},
    }
