"""Images per second beside the bare denoiser: ``python -m benchmarks.throughput``.

Efficiency is the time of the denoiser's passes alone, on the very same batches and pairs, in the
time that the agent takes for them. Rounds and bare passes take turns; of the repeats, the table has
the median, the least and the most.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from agents.runs.run_folder import write_json
from benchmarks.destination import add_destination
from benchmarks.tables import markdown_table
from benchmarks.throughput import growth, machine, report
from benchmarks.throughput.jobs import EMBEDDED, SIZES, Job
from benchmarks.throughput.rounds import measure

RESULTS = Path(__file__).parents[1] / "results"
NAME = "throughput"


def job_of(text: str, device: str) -> Job:
    """A job from the command line: ``MODEL`` or ``MODEL:{"option": value, …}``."""
    model, _, options = text.partition(":")
    return Job(model, device, json.loads(options) if options else {})


def tables(results: dict[str, Any]) -> dict[str, list[list[str]]]:
    """All tables by title, each line by line with a heading."""
    jobs = [(each["title"], each["figures"]) for each in results["jobs"]]
    found = {"Throughput": report.table(jobs)}
    if "growth" in results:
        found["The environment alone, without a denoiser"] = report.growth_table(results["growth"])
    return found


def document(results: dict[str, Any]) -> str:
    """The tables as a page."""
    on = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    parts = [f"# Throughput\n\nMeasured by `python -m benchmarks.throughput` ({on})."]
    for title, (header, *rows) in tables(results).items():
        parts.append(f"## {title}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts) + "\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """Leaves figures and page in a folder."""
    write_json(folder / f"{NAME}.json", results)
    (folder / f"{NAME}.md").write_text(document(results), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes JSON and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--jobs",
        nargs="+",
        default=[
            f'{EMBEDDED}:{{"num_envs": 64, "updates_per_round": 2}}',
            f'{EMBEDDED}:{{"num_envs": 64, "updates_per_round": 2, "lora_rank": 16}}',
        ],
        help='each a model and options of agents.train: emoji-64, sd15:{"lora_rank": 4}; '
        f"with random weights: {', '.join(SIZES)}",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--usual",
        type=int,
        default=8,
        help="images at a time in the loop that is compared with, as DDPO's released one has it",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--growth", action="store_true", help="also: the environment alone, as its numbers grow"
    )
    add_destination(parser, "--results", "runs/throughput", RESULTS)
    options = parser.parse_args(arguments)
    console = Console()
    options.results.mkdir(parents=True, exist_ok=True)
    jobs: list[dict[str, Any]] = []
    results = {"machine": machine.describe(torch.device(options.device)), "jobs": jobs}
    for text in options.jobs:
        job = job_of(text, options.device)
        figures = measure(job, options.repeats, options.usual)
        jobs.append({"title": job.title, "options": job.options, "figures": figures})
        write(results, options.results)  # the next one may not fit into the time or the memory
        if len(figures["rounds"]) < options.repeats:
            break  # somebody wants an end
    if options.growth:
        results["growth"] = growth.measure(options.device)
        write(results, options.results)
    for title, (header, *rows) in tables(results).items():
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    main()
