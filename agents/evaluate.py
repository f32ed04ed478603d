"""Compares a trained policy with its base model: ``python -m agents.evaluate RUN``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.backend_bases import FigureCanvasBase

from agents.evaluation import evaluate
from agents.evaluation.pictures import before_after
from agents.files import file_to_write
from agents.runs import cli
from agents.runs.builders import (
    EVALUATION_SEED,
    base_env,
    base_policy,
    evaluation_prompts,
    load_policy,
    make_env,
    make_evaluation_env,
    make_image_metrics,
)
from agents.runs.report import figures, print_comparison
from agents.runs.run_folder import RunFolder, write_json
from agents.runs.screen import Screen, say
from diffusion_gym.checks import Checked, Count
from diffusion_gym.errors import InvalidInputError, one_line


@dataclass(frozen=True)
class EvaluateOptions(Checked):
    """What to evaluate on."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder of agents.train."""

    reward: str | None = None
    """Another registered reward than the run's own."""

    also: Sequence[str] | None = None
    """Rewards to watch besides, with commas between; by default as fits the model. The reward that
    was trained on is always among them."""

    diversity_clip: str | None = None
    """Folder or hub id of the CLIP by whose embeddings diversity/clip compares images; by default
    the run's."""

    prompts: str | None = None
    """Another prompt set or file than the run's held-out one."""

    count: Count = 64
    """Most prompts."""

    samples: Count = 4
    """Images per prompt."""

    device: str | None = None
    """Torch device; by default the run's."""

    checkpoint: str | None = None
    """Name of a checkpoint of the run, such as round-000005; by default the newest."""

    pictures: str | None = None
    """Picture to write, of images before and after."""

    json: str | None = None
    """File for the figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what held-out prompts' images score before and after training, with intervals."""
    options = cli.parse(
        EvaluateOptions, arguments, command="python -m agents.evaluate", description=__doc__
    )
    console = Screen()
    pictures = _checked_pictures(options.pictures) if options.pictures else None
    file = file_to_write(options.json) if options.json else None
    run = RunFolder.open(options.run)
    settings = run.settings

    # 1. The environment to evaluate on, and the two policies.
    device = options.device or settings.env.device
    changes: dict[str, Any] = {"device": device}
    if options.reward:
        changes["reward"] = options.reward
    env = make_env(settings, **changes)
    prompts = options.prompts or evaluation_prompts(env)
    env = make_evaluation_env(
        settings, prompts, count=options.count, samples=options.samples, **changes
    )
    metrics = make_image_metrics(
        env,
        options.also,
        trained_on=settings.env.reward,
        options=settings.env.reward_options,
        diversity_clip=options.diversity_clip or settings.evaluation.diversity_clip,
    )
    policy = load_policy(run, device=device, checkpoint=options.checkpoint)

    # 2. Both draw from the same noise.
    before, after = (
        evaluate(
            chosen,
            env,
            samples=options.samples,
            prompts=options.count,
            seed=EVALUATION_SEED,
            image_metrics=metrics,
        )
        for chosen in (base_policy(policy), policy)
    )

    # 3. The comparison, on the screen and in files.
    reward = base_env(env).reward_function.name
    title = f"{len(before.prompts)} prompts ({prompts}) x {options.samples} images"
    print_comparison(console, before, after, reward, title)
    if pictures:
        before_after(before.images, after.images, before.prompts, pictures)
        say(console, f"pictures: {pictures}")
    if file:
        measured = figures(before, after, reward)
        write_json(file, measured)
        console.print_json(json.dumps(measured))
    return 0


def _checked_pictures(text: str) -> Path:
    path = file_to_write(text)
    if path.suffix.lower().removeprefix(".") not in FigureCanvasBase.get_supported_filetypes():
        raise InvalidInputError(
            "expected a picture's name, such as pictures.png or pictures.pdf, got "
            f"{one_line(str(path))}"
        )
    return path


if __name__ == "__main__":
    cli.run(main)
