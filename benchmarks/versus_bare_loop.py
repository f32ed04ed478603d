"""What environment and agent cost beside the bare loop, which trains on the sparse reward.

For every seed it trains once with `benchmarks.bare_loop` and once as ``python -m agents.train
--shaping sparse`` does (with its logs and checkpoints), in turn, on the same machine, and compares
the wall time until the training reward, averaged over three rounds, first reaches a target.

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

from agents.runs.run_folder import write_json
from agents.runs.settings import TrainSettings
from agents.runs.training import Training
from benchmarks.bare_loop import BareLoop
from benchmarks.destination import add_destination
from diffusion_gym.prompts import load_prompts

WINDOW = 3
SAMPLES = 4
"""Images of each held-out prompt, before and after."""
RESULTS = Path(__file__).parent / "results" / "versus_bare_loop.json"
Curve = list[tuple[float, float]]


def train_bare(seed: int, images: int) -> dict[str, Any]:
    """Trains with the bare loop; seconds and reward after every round."""
    loop = BareLoop(seed)
    held_out = load_prompts("emoji-objects:held_out").texts
    before = loop.evaluate(held_out, SAMPLES)
    start = time.perf_counter()
    rounds = loop.train(images, load_prompts("emoji-objects").texts)
    curve = [(time.perf_counter() - start, reward) for reward in rounds]
    return {"curve": curve, "before": before, "after": loop.evaluate(held_out, SAMPLES)}


def train_agent(seed: int, images: int) -> dict[str, Any]:
    """Trains as the command line does."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "run")
        options = {"shaping": "sparse", "seed": seed, "images": images, "picture_every": 0}
        settings = TrainSettings.of(**options, eval_samples=SAMPLES, output=output)
        training = Training(settings, Console(quiet=True))
        training.run()
        run = training.run_folder
        summary = run.summary()
        curve = [(row["time/seconds"], row["rollout/reward_mean"]) for row in run.metrics()]
    return {
        "curve": curve,
        "before": summary["reward_before"],
        "after": summary["reward_after"],
        "difference": [summary[f"difference{end}"] for end in ("_low", "", "_high")],
    }


def seconds_to(curve: Curve, target: float) -> float:
    """Time until the mean of the last three rounds reaches the target; infinite if never."""
    rewards = np.array([reward for _, reward in curve])
    means = np.convolve(rewards, np.ones(WINDOW) / WINDOW, mode="valid")
    reached = np.flatnonzero(means >= target)
    return curve[reached[0] + WINDOW - 1][0] if len(reached) else float("inf")


def report(results: list[dict[str, Any]], target: float, console: Console) -> dict[str, float]:
    """Prints a row per seed; returns the ratios of the medians, agent / bare."""
    table = Table(title=f"agents.train beside the bare loop; target: training reward {target}")
    headings = ("seed", "to target:\nbare", "\nagent", "in all:\nbare", "\nagent")
    for name in (*headings, "held-out:\nbare", "\nagent", "its gain,\n95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = []
    for result in results:
        bare, agent = result["bare"], result["agent"]
        times = [seconds_to(run["curve"], target) for run in (bare, agent)]
        times += [run["curve"][-1][0] for run in (bare, agent)]
        rows.append(times)
        low, mean, high = agent["difference"]
        table.add_row(
            str(result["seed"]),
            *("never" if np.isinf(value) else f"{value:.0f} s" for value in times),
            f"{bare['before']:.2f} > {bare['after']:.2f}",
            f"{agent['before']:.2f} > {agent['after']:.2f}",
            f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]",
        )
    bare_to, agent_to, bare_all, agent_all = np.median(np.array(rows), axis=0).tolist()
    table.add_row("median", *(f"{v:.0f} s" for v in (bare_to, agent_to, bare_all, agent_all)))
    console.print(table)
    ratios = {"to_target": agent_to / bare_to, "per_image": agent_all / bare_all}
    console.print(
        f"agent / bare, medians over seeds: time to the target {ratios['to_target']:.2f}, "
        f"time per image {ratios['per_image']:.2f}"
    )
    return ratios


def main() -> None:
    """Runs the comparison and keeps its curves; or only reads kept ones again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1216)
    parser.add_argument("--target", type=float, default=0.7)
    add_destination(parser, "--output", "runs/versus_bare_loop.json", RESULTS)
    parser.add_argument("--report-only", action="store_true", help="print what --output holds")
    options = parser.parse_args()
    console = Console(width=110)
    if options.report_only:
        report(json.loads(options.output.read_text())["results"], options.target, console)
        return
    results = []
    for seed in range(options.seeds):
        runs = {"bare": train_bare, "agent": train_agent}
        # Taking turns in going first keeps a drifting machine from favouring one of them.
        order = sorted(runs, reverse=seed % 2 == 0)
        done = {name: runs[name](seed, options.images) for name in order}
        results.append({"seed": seed, **done})
        ratios = report(results, options.target, console)
    options.output.parent.mkdir(exist_ok=True)
    write_json(options.output, {"target": options.target, "ratios": ratios, "results": results})


if __name__ == "__main__":
    main()
