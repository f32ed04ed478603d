"""What environment and agent cost beside the bare loop, and what the default job reaches.

For every seed it trains once with `benchmarks.bare_loop` and once as ``python -m agents.train``
does (with its logs and checkpoints), in turn, on the same machine, and compares the wall time until
the training reward, averaged over three rounds, first reaches a target.

Run: ``python -m benchmarks.versus_bare_loop --seeds 5``
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.run_folder import RunFolder, write_json
from agents.settings import TrainSettings
from agents.train import Training
from benchmarks.bare_loop import BareLoop
from diffusion_gym.prompts import load_prompts

WINDOW = 3
RESULTS = Path(__file__).parent / "results" / "versus_bare_loop.json"
Curve = list[tuple[float, float]]


def train_bare(seed: int, images: int) -> dict[str, Any]:
    """Trains with the bare loop; seconds and reward after every round."""
    loop = BareLoop(seed)
    held_out = load_prompts("emoji-objects:held_out").texts
    before = loop.evaluate(held_out)
    start = time.perf_counter()
    rounds = loop.train(images, load_prompts("emoji-objects").texts)
    curve = [(time.perf_counter() - start, reward) for reward in rounds]
    return {"curve": curve, "before": before, "after": loop.evaluate(held_out)}


def train_agent(seed: int, images: int) -> dict[str, Any]:
    """Trains as the command line does."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(seed=seed, images=images, output=str(Path(folder) / "run"))
        Training(settings, Console(quiet=True)).run()
        run = RunFolder.open(str(settings.output))
        summary = json.loads(run.summary_file.read_text())
        curve = [(row["time/seconds"], row["rollout/reward_mean"]) for row in run.metrics()]
    return {
        "curve": curve,
        "before": summary["held_out_before"],
        "after": summary["held_out_after"],
        "difference": [summary[f"difference{end}"] for end in ("_low", "", "_high")],
    }


def seconds_to(curve: Curve, target: float) -> float:
    """Time until the mean of the last three rounds reaches the target; infinite if never."""
    rewards = np.array([reward for _, reward in curve])
    means = np.convolve(rewards, np.ones(WINDOW) / WINDOW, mode="valid")
    reached = np.flatnonzero(means >= target)
    return curve[reached[0] + WINDOW - 1][0] if len(reached) else float("inf")


def report(results: list[dict[str, Any]], target: float, console: Console) -> dict[str, float]:
    """Prints a row per seed; returns the ratios of the totals."""
    table = Table(title=f"agents.train beside the bare loop; target: training reward {target}")
    headings = ("seed", "to target: bare", "agent", "in all: bare", "agent")
    for name in (*headings, "bare held-out", "agent held-out", "gain, 95% interval"):
        table.add_column(name, justify="right")
    times: dict[str, list[float]] = {"bare": [], "agent": [], "bare all": [], "agent all": []}
    for result in results:
        bare, agent = result["bare"], result["agent"]
        row = [seconds_to(run["curve"], target) for run in (bare, agent)]
        row += [run["curve"][-1][0] for run in (bare, agent)]
        for values, value in zip(times.values(), row, strict=True):
            values.append(value)
        low, mean, high = agent["difference"]
        table.add_row(
            str(result["seed"]),
            *(f"{value:.0f} s" for value in row),
            f"{bare['before']:.2f}→{bare['after']:.2f}",
            f"{agent['before']:.2f}→{agent['after']:.2f}",
            f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]",
        )
    console.print(table)
    ratios = {
        "to_target": sum(times["agent"]) / sum(times["bare"]),
        "per_image": sum(times["agent all"]) / sum(times["bare all"]),
    }
    console.print(
        f"time to the target, agent / bare, over all seeds: {ratios['to_target']:.3f}; "
        f"time per image: {ratios['per_image']:.3f}"
    )
    return ratios


def main() -> None:
    """Runs the comparison and keeps its curves in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1216)
    parser.add_argument("--target", type=float, default=0.7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = []
    for seed in range(options.seeds):
        runs = {"bare": train_bare, "agent": train_agent}
        # Taking turns in going first keeps a drifting machine from favouring one of them.
        order = sorted(runs, reverse=seed % 2 == 0)
        done = {name: runs[name](seed, options.images) for name in order}
        results.append({"seed": seed, **done})
        ratios = report(results, options.target, Console())
    options.output.parent.mkdir(exist_ok=True)
    write_json(options.output, {"target": options.target, "ratios": ratios, "results": results})


if __name__ == "__main__":
    main()
