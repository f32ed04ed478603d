"""Draws images with a trained policy: ``python -m agents.sample RUN --prompt "a cat"``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from agents.evaluation.evaluation import evaluate
from agents.evaluation.pictures import image_sheet
from agents.runs import cli
from agents.runs.builders import base_policy, load_policy, make_env
from agents.runs.run_folder import RunFolder
from diffusion_gym.errors import InvalidInputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws one row of images per prompt into a PNG."""
    options = _parser().parse_args(arguments)
    if options.samples < 1:
        raise InvalidInputError(f"expected at least 1 sample per prompt, got {options.samples}")
    if not options.output.parent.is_dir():
        raise InvalidInputError(f"expected an existing folder for {options.output}, found none")
    run = RunFolder.open(options.run)
    settings = run.settings
    policy = load_policy(run, device=settings.device)
    if options.base:
        policy = base_policy(policy)
    count = len(options.prompt) * options.samples
    env = make_env(
        settings,
        prompts=options.prompt,
        reward="jpeg_compressibility",  # any prompt has one
        num_envs=min(count, settings.num_envs),
    )
    result = evaluate(
        policy, env, samples=options.samples, prompts=len(options.prompt), seed=options.seed
    )
    images = result.images.reshape(count, *result.images.shape[2:])
    image_sheet(images, options.samples, options.output, scale=options.scale)
    Console().print(f"{count} images: {options.output}", highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.sample", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of agents.train")
    parser.add_argument("--prompt", action="append", required=True, help="may be given repeatedly")
    parser.add_argument("--samples", type=int, default=8, help="images per prompt (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--base", action="store_true", help="draw with the model before training")
    parser.add_argument("--scale", type=int, default=2, help="enlargement (default: 2)")
    parser.add_argument(
        "--output", type=Path, default=Path("sample.png"), help="PNG file (default: sample.png)"
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
