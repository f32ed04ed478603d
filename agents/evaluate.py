"""Compares a trained policy with its base model: ``python -m agents.evaluate RUN``."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.evaluation.evaluation import evaluate, mean, paired_difference
from agents.evaluation.pictures import before_after
from agents.runs import cli
from agents.runs.builders import (
    EVALUATION_SEED,
    base_policy,
    evaluation_prompts,
    load_policy,
    make_env,
    make_image_metrics,
)
from agents.runs.report import comparison, print_comparison
from agents.runs.run_folder import RunFolder, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what held-out prompts' images score before and after training, with intervals."""
    options = _parser().parse_args(arguments)
    console = Console()
    run = RunFolder.open(options.run)
    settings = run.settings
    changes: dict[str, Any] = {"reward": options.reward} if options.reward else {}
    env = make_env(settings, **changes)
    changes["prompts"] = options.prompts or evaluation_prompts(settings, env)
    env = make_env(settings, **changes)
    image_metrics = make_image_metrics(settings, env, options.also)
    policy = load_policy(run, device=settings.device)
    before, after = (
        evaluate(
            chosen,
            env,
            samples=options.samples,
            prompts=options.count,
            seed=EVALUATION_SEED,
            image_metrics=image_metrics,
        )
        for chosen in (base_policy(policy), policy)
    )
    base: Any = env.unwrapped
    reward = str(base.reward_function.name)
    title = f"{len(before.prompts)} prompts ({changes['prompts']}) x {options.samples} images"
    print_comparison(console, before, after, reward, title)
    if options.pictures:
        before_after(before.images, after.images, before.prompts, options.pictures)
        console.print(f"pictures: {options.pictures}", highlight=False, soft_wrap=True)
    if options.json:
        difference = paired_difference(before.rewards, after.rewards)
        figures = {
            "reward": reward,
            "before": mean(before.rewards),
            "after": mean(after.rewards),
            "difference": [difference.low, difference.mean, difference.high],
            **comparison(before, after),
        }
        write_json(options.json, figures)
        console.print_json(json.dumps(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of agents.train")
    parser.add_argument("--reward", help="another registered reward than the run's own")
    parser.add_argument(
        "--also",
        action="append",
        metavar="REWARD",
        help="a reward that was not trained on, may be repeated (default: as fits the model)",
    )
    parser.add_argument("--prompts", help="another prompt set or file than the run's held-out one")
    parser.add_argument("--count", type=int, default=64, help="most prompts (default: 64)")
    parser.add_argument("--samples", type=int, default=4, help="images per prompt (default: 4)")
    parser.add_argument("--pictures", type=Path, help="PNG file for a before/after grid")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    cli.run(main)
