"""Draws images with a trained policy: ``python -m agents.sample RUN --prompt "a cat"``.

Without RUN, with a model as it is: the one that --model names, or the embedded one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from agents.evaluation import evaluate
from agents.evaluation.film import DecodedSteps, film_sheets, film_to_write, write_film
from agents.evaluation.pictures import image_sheet
from agents.files import file_to_write
from agents.runs import cli
from agents.runs.builders import (
    Prompts,
    base_policy,
    check_subject,
    load_policy,
    make_evaluation_env,
    untrained_policy,
    untrained_settings,
)
from agents.runs.run_folder import RunFolder
from agents.runs.screen import Screen, say
from diffusion_gym.checks import Checked, Count, Seed
from diffusion_gym.errors import InvalidInputError, one_line


@dataclass(frozen=True)
class SampleOptions(Checked):
    """What to draw."""

    run: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder of agents.train; by default none, and a model draws that was not trained here."""

    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What to draw; may be given repeatedly."""

    negative_prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What guidance leads away from: one for all prompts, or as many as there are prompts."""

    model: str | None = None
    """Without RUN: embedded model's name, diffusers folder, .safetensors file, or id on the model
    hub; by default the embedded model."""

    samples: Count = 8
    """Images per prompt."""

    seed: Seed = 0
    """Seed of the noise."""

    base: bool = False
    """Draw with the model before training."""

    device: str | None = None
    """Torch device; by default the run's, or the fastest that there is."""

    checkpoint: str | None = None
    """Name of a checkpoint of the run, such as round-000005; by default the newest."""

    scale: Count = 2
    """Enlargement."""

    output: str = "sample.png"
    """Picture to write, of any format that its suffix names."""

    film: str | None = None
    """Film to write besides, of the same images from noise on: film.gif or film.mp4."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws one row of images per prompt into a picture."""
    options = cli.parse(
        SampleOptions, arguments, command="python -m agents.sample", description=__doc__
    )
    # 1. What can be refused is refused before anything is drawn.
    if not options.prompt:
        raise InvalidInputError("expected at least one --prompt, got none")
    output = _checked_output(options.output)
    film = None if options.film is None else film_to_write(options.film)
    check_subject(options.run, model=options.model, checkpoint=options.checkpoint)
    run = RunFolder.open(options.run) if options.run else None
    settings = run.settings if run else untrained_settings(options.model, options.device)

    # 2. The policy, and an environment of these prompts.
    device = options.device or settings.env.device
    count = len(options.prompt) * options.samples
    env = make_evaluation_env(
        settings,
        _with_negatives(options.prompt, options.negative_prompt),
        count=len(options.prompt),
        samples=options.samples,
        device=device,
        reward="jpeg_compressibility",  # any prompt has one
    )
    if run is None:
        policy = untrained_policy(settings, env)
    else:
        policy = load_policy(run, device=device, checkpoint=options.checkpoint)
        policy = base_policy(policy) if options.base else policy

    # 3. The picture, and the film.
    steps = DecodedSteps(policy.model) if film else None
    result = evaluate(
        policy,
        env,
        samples=options.samples,
        prompts=len(options.prompt),
        seed=options.seed,
        watch=steps,
    )
    images = result.images.reshape(count, *result.images.shape[2:])
    image_sheet(images, options.samples, output, scale=options.scale)
    say(Screen(), f"{count} images: {output}")
    if steps and film:
        write_film(film_sheets(steps.frames, options.samples, scale=options.scale), film)
        say(Screen(), f"{len(steps.frames) - 1} steps: {film}")
    return 0


def _with_negatives(prompts: Sequence[str], negatives: Sequence[str]) -> Prompts:
    if not negatives:
        return prompts
    if len(negatives) not in (1, len(prompts)):
        raise InvalidInputError(
            f"expected one --negative-prompt, or one for each of {len(prompts)} prompts, got "
            f"{len(negatives)}"
        )
    pairs = zip(prompts, itertools.cycle(negatives), strict=False)
    return [{"prompt": prompt, "negative_prompt": negative} for prompt, negative in pairs]


def _checked_output(text: str) -> Path:
    output = file_to_write(text)
    if output.suffix.lower() not in Image.registered_extensions():
        raise InvalidInputError(
            "expected a picture's name, such as sample.png or sample.jpg, got "
            f"{one_line(str(output))}"
        )
    return output


if __name__ == "__main__":
    cli.run(main)
