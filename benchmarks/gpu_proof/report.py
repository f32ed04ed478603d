"""What the parts left, as one file of figures and one page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu_proof.parts import Outcome
from benchmarks.tables import markdown_table
from benchmarks.throughput import report as throughput

Results = dict[str, Any]

SUMMARY = (
    *("images", "training_seconds", "denoiser_evaluations"),
    *("reward_before", "reward_after", "difference", "difference_low", "difference_high"),
)
"""What is shown of the default job."""


def gather(
    outcomes: Sequence[Outcome], folder: Path, machine: Results, *, toy: bool = False
) -> Results:
    """All figures.

    Args:
        outcomes: Of every part.
        folder: Where they wrote to.
        machine: What they ran on.
        toy: Whether they are the rehearsal's.
    """
    parts = []
    for outcome in outcomes:
        own = folder / outcome.part.name
        parts.append(
            {
                "name": outcome.part.name,
                "title": outcome.part.title,
                "status": outcome.status,
                "seconds": outcome.seconds,
                "output": outcome.output,
                "figures": _figures(own),
            }
        )
    return {"machine": machine, "toy": toy, "parts": parts}


def _figures(folder: Path) -> Results:
    """Whatever a part has left of figures, by kind."""
    found: Results = {}
    if (folder / "tests.xml").is_file():
        found["tests"] = _tests(folder / "tests.xml")
    for kind, file in {
        "throughput": folder / "throughput.json",
        "memory": folder / "measured.json",
        "run": folder / "run" / "summary.json",
    }.items():
        if file.is_file():
            found[kind] = json.loads(file.read_text())
    return found


def _tests(file: Path) -> list[Results]:
    """Name, outcome and seconds of every test."""
    tests = []
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        outcomes = {child.tag for child in case} & {"failure", "error", "skipped"}
        tests.append(
            {
                "name": case.get("name"),
                "outcome": next(iter(outcomes), "passed"),
                "seconds": float(case.get("time", "0")),
            }
        )
    return tests


def page(results: Results) -> str:
    """The page."""
    on = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    title, command, note = REHEARSAL if results["toy"] else PROOF
    parts = [f"# {title}\n\n`{command}` on {on}.{note}"]
    rows = [[part["title"], _status(part), f"{part['seconds']:.0f}"] for part in results["parts"]]
    parts.append(markdown_table(("part", "outcome", "seconds"), rows))
    jobs = []
    for part in results["parts"]:
        figures = part["figures"]
        if "tests" in figures:
            tests = [[t["name"], t["outcome"], f"{t['seconds']:.1f}"] for t in figures["tests"]]
            parts.append(f"## {part['title']}\n\n{markdown_table(TESTS, tests)}")
        if "memory" in figures:
            header, *lines = figures["memory"]
            parts.append(f"## {part['title']}\n\n{markdown_table(header, lines)}")
        if "run" in figures:
            run = [[name, _number(figures["run"].get(name))] for name in SUMMARY]
            parts.append(f"## {part['title']}\n\n{markdown_table(('figure', 'value'), run)}")
        if "throughput" in figures:
            jobs += [(job["title"], job["figures"]) for job in figures["throughput"]["jobs"]]
    if jobs:
        header, *lines = throughput.table(jobs)
        parts.append(f"## Throughput\n\n{markdown_table(header, lines)}")
    return "\n\n".join(parts) + "\n"


PROOF = ("What was proved on a GPU", "python -m benchmarks.gpu_proof", "")
REHEARSAL = (
    "A rehearsal of the proof on a GPU",
    "python -m benchmarks.gpu_proof --toy",
    " Small models, few images, one repeat: that the parts run is all that it proves, and its times"
    " mean nothing.",
)
TESTS = ("test", "outcome", "seconds")


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _status(part: Results) -> str:
    if part["status"] == 0:
        return "passed"
    words = part["output"].strip().splitlines()
    last = words[-1] if words else "no output"
    return last if part["status"] is None else f"failed ({part['status']}): {last}"
