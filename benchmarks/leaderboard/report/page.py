"""The page of HTML: one file that needs no network."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leaderboard.protocol import Task
from benchmarks.leaderboard.report.figures import Report, Row
from benchmarks.leaderboard.report.inputs import Strip
from benchmarks.leaderboard.report.markdown import (
    COLUMNS,
    FAMILY,
    OTHERS,
    PAIRS,
    RECORD,
    about,
    cells,
    family_rows,
    fronts,
    how,
    other_names,
    other_rows,
    pair_rows,
    record_rows,
    record_title,
)
from benchmarks.leaderboard.report.pictures import look
from benchmarks.leaderboard.report.reading import reading, task_reading
from benchmarks.leaderboard.statistics.intervals import Interval
from benchmarks.leaderboard.statistics.pareto import pareto_front

LIBRARY = "/* plotly.js */"
"""Stands where the library is put in, which is no part of what the records give."""

AGAINST = {
    "reward_queries": "reward queries",
    "denoiser_evaluations": "denoiser evaluations",
    "kl_to_base": "KL divergence to the base model",
    "diversity": "CLIP diversity of a prompt's images",
}
"""What the reward is drawn against."""


PRICES = {
    "kl": "KL divergence to the base model after training",
    "diversity": "CLIP diversity after training",
}
"""What the final reward is drawn against."""

LOGARITHMIC = ("kl", "kl_to_base")
"""Of both: that in which methods differ by orders of magnitude."""


def document(report: Report, coverage: Mapping[str, Any], strips: Sequence[Strip]) -> str:
    """The page, with `LIBRARY` where plotly.js belongs.

    Args:
        report: The figures.
        coverage: What the intervals cover, as simulated.
        strips: Pictures of runs.
    """
    body = ["<h1>Leaderboard</h1>"]
    if report.runs:
        body += ["<h2>Mean score over all tasks</h2>", _table(FAMILY, family_rows(report))]
    body.append(_list(reading(report)))
    if report.runs:
        body.append(f"<p>{_text(how(report, coverage))}</p>")
    charts: list[Mapping[str, Any]] = []
    for task in report.tasks:
        rows = report.rows[task.name]
        body += [f"<h2>{_text(task.name)}</h2>", f"<p>{_text(about(task))}</p>"]
        body += [_table(COLUMNS, [cells(row) for row in rows]), "<div class='charts'>"]
        for cost, label in AGAINST.items():
            name = f"chart{len(charts)}"
            body.append(f"<div class='chart' id='{name}'></div>")
            charts.append(_chart(name, report, task, cost, label))
        for price, label in PRICES.items():
            name = f"chart{len(charts)}"
            body.append(f"<div class='chart' id='{name}'></div>")
            charts.append(_final(name, report, task, price, label))
        body.append("</div>")
        body.append(_list([*fronts(report, task), *task_reading(report, task.name)]))
        if pairs := pair_rows(report, task):
            body += ["<h3>Between methods</h3>", _table(PAIRS, pairs)]
        if names := other_names(report, task):
            body += [f"<h3>{_text(OTHERS)}</h3>"]
            body += [_table(("method", *names), other_rows(report, task))]
        if record := record_rows(report, task):
            body += [f"<h3>{_text(record_title(task))}</h3>", _table(RECORD, record)]
        body += _pictures([strip for strip in strips if strip.task == task.name], report)
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
    lines = [_line(report, row, cost) for row in report.rows[task.name]]
    lines = [line for line in lines if line["x"]]
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
    return {
        "id": name,
        "data": lines,
        "layout": {
            "xaxis": _axis(cost, label),
            "yaxis": {"title": {"text": "held-out reward"}},
            "shapes": marks,
        },
    }


def _axis(price: str, label: str) -> dict[str, Any]:
    """The axis of what a reward is had for: what is spent or lost grows to the right."""
    axis: dict[str, Any] = {"title": {"text": label}}
    if price == "diversity":
        axis["autorange"] = "reversed"
    if price in LOGARITHMIC:
        axis |= {"type": "log", "title": {"text": f"{label}, logarithmic, without 0"}}
    return axis


def _line(report: Report, row: Row, cost: str) -> dict[str, Any]:
    drawn = look(report, row.method)
    points = list(zip(row.curve[cost], row.curve["reward"], strict=True))
    if cost in LOGARITHMIC:
        points = [(x, y) for x, y in points if x > 0]  # not before training
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": row.method,
        "x": [_short(x) for x, _ in points],
        "y": [_short(y) for _, y in points],
        "line": {"color": drawn.color},
        "marker": {"symbol": drawn.symbol},
        "hovertemplate": "%{y:.3f} at %{x:.4g}",
    }


def _final(name: str, report: Report, task: Task, price: str, label: str) -> dict[str, Any]:
    """Final reward against its price: a point with intervals per method, and the front."""
    rows = report.rows[task.name]
    if price in LOGARITHMIC:
        rows = [row for row in rows if getattr(row, price).mean > 0]
    points = []
    for row in rows:
        x, y, drawn = getattr(row, price), row.reward, look(report, row.method)
        points.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": row.method,
                "x": [_short(x.mean)],
                "y": [_short(y.mean)],
                "error_x": _bar(x),
                "error_y": _bar(y),
                "marker": {"color": drawn.color, "size": 9, "symbol": drawn.symbol},
                "hovertemplate": "%{y:.3f} at %{x:.3g}",
            }
        )
    sign = -1 if price == "diversity" else 1
    gain = np.array([row.reward.mean for row in rows])
    cost = np.array([sign * getattr(row, price).mean for row in rows])
    front = pareto_front(gain, cost)
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "best at its price",
        "x": [_short(sign * cost[k]) for k in front],
        "y": [_short(gain[k]) for k in front],
        "line": {"dash": "dot", "width": 1, "color": "#8b949e", "shape": "hv"},
        "hoverinfo": "skip",
    }
    layout = {
        "xaxis": _axis(price, label),
        "yaxis": {"title": {"text": "held-out reward"}},
        "hovermode": "closest",
    }
    return {"id": name, "data": [*points, line], "layout": layout}


def _bar(value: Interval) -> dict[str, Any]:
    half = 0.0 if value.seeds < 2 else value.high - value.mean
    return {"type": "data", "array": [_short(half)], "thickness": 1, "width": 2}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _pictures(strips: Sequence[Strip], report: Report) -> list[str]:
    """Rows of pictures, the first of each method, in the order of the methods."""
    first: dict[str, Strip] = {}
    for strip in strips:
        first.setdefault(strip.method, strip)
    if not first:
        return []
    rows = "".join(
        f"<tr><th>{_text(strip.method)}</th><td><img alt='{_text(', '.join(strip.prompts))}' "
        f"src='data:image/webp;base64,{base64.b64encode(strip.image).decode()}'></td></tr>"
        for strip in (first[method] for method in report.methods if method in first)
    )
    one = next(iter(first.values()))
    about = (
        f"Held-out prompts after training with seed {one.seed}, from the same noise: "
        f"{', '.join(one.prompts)}."
    )
    table = f"<div class='wide'><table class='pictures'><tbody>{rows}</tbody></table></div>"
    return ["<h3>Pictures</h3>", f"<p>{_text(about)}</p>", table]


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
