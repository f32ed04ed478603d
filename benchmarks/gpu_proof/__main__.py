"""Proves on a GPU what this project claims of one: ``python -m benchmarks.gpu_proof --minutes 6``.

The tests at full size, throughput beside the bare network, memory beside what was computed, and the
default job, as far as the time goes; ``--toy`` rehearses it on any machine. It writes one file of
figures and one page, ``gpu_proof`` or ``gpu_proof_toy``.
"""

import argparse
import math
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from agents.runs.run_folder import write_json
from benchmarks.destination import add_destination
from benchmarks.gpu_proof import report
from benchmarks.gpu_proof.parts import FULL, TOY, run
from benchmarks.throughput import machine

RESULTS = Path(__file__).parents[1] / "results"
NAMES = {False: "gpu_proof", True: "gpu_proof_toy"}
"""Of the files, by whether it is the rehearsal."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts; returns 1 where one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=_minutes, default=6.0, help="for all parts together")
    parser.add_argument("--toy", action="store_true", help="the rehearsal, without a GPU")
    add_destination(parser, "--results", "runs/gpu_proof", RESULTS)
    options = parser.parse_args(arguments)
    if not options.toy and not torch.cuda.is_available():
        parser.error("expected a CUDA device, found none: --toy rehearses without one")
    console = Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = []
        for outcome in run(TOY if options.toy else FULL, Path(folder), options.minutes):
            outcomes.append(outcome)
            status = "left out" if outcome.status is None else f"status {outcome.status}"
            console.print(f"{outcome.part.title}: {status}, {outcome.seconds:.0f} s")
            # After every part: what is known survives a lease that ends.
            on = dict(machine.describe(device))
            results = report.gather(outcomes, Path(folder), on, toy=options.toy)
            file = options.results / NAMES[options.toy]
            write_json(file.with_suffix(".json"), results)
            file.with_suffix(".md").write_text(report.page(results), encoding="utf-8")
    return int(any(outcome.status not in (0, None) for outcome in outcomes))


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"expected a time above 0, got {text!r}")
    return minutes


if __name__ == "__main__":
    raise SystemExit(main())
