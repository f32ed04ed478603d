"""Compares a trained policy with its base model: ``python -m agents.evaluate RUN``."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents import cli
from agents.evaluation import evaluate, paired_difference
from agents.pictures import before_after
from agents.report import comparison_table
from agents.run_folder import RunFolder, write_json
from agents.workbench import EVALUATION_SEED, base_policy, evaluation_prompts, load_policy, make_env


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints rewards on held-out prompts before and after training, with 95% intervals."""
    options = _parser().parse_args(arguments)
    console = Console()
    run = RunFolder.open(options.run)
    settings = run.settings
    changes: dict[str, Any] = {"reward": options.reward} if options.reward else {}
    env = make_env(settings, **changes)
    changes["prompts"] = options.prompts or evaluation_prompts(settings, env)
    env = make_env(settings, **changes)
    policy = load_policy(run, device=settings.device)
    results = [
        evaluate(chosen, env, samples=options.samples, prompts=options.count, seed=EVALUATION_SEED)
        for chosen in (base_policy(policy), policy)
    ]
    base: Any = env.unwrapped
    reward = str(base.reward_function.name)
    before, after = results
    title = f"{len(before.prompts)} prompts ({changes['prompts']}) x {options.samples} images"
    console.print(comparison_table(before, after, reward, title))
    if options.pictures:
        before_after(before.images, after.images, before.prompts, options.pictures)
        console.print(f"pictures: {options.pictures}", highlight=False, soft_wrap=True)
    if options.json:
        difference = paired_difference(before.rewards, after.rewards)
        figures = {
            "reward": reward,
            "before": float(np.nanmean(before.rewards)),
            "after": float(np.nanmean(after.rewards)),
            "difference": [difference.low, difference.mean, difference.high],
        }
        write_json(options.json, figures)
        console.print_json(json.dumps(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of agents.train")
    parser.add_argument("--reward", help="another registered reward than the run's own")
    parser.add_argument("--prompts", help="another prompt set or file than the run's held-out one")
    parser.add_argument("--count", type=int, default=64, help="most prompts (default: 64)")
    parser.add_argument("--samples", type=int, default=4, help="images per prompt (default: 4)")
    parser.add_argument("--pictures", type=Path, help="PNG file for a before/after grid")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    cli.run(main)
