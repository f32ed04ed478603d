"""A film of the denoising, from noise to picture, before and after training.

``python examples/denoising_film.py runs/house_style-seed0``, after ``python -m agents.train``.

Both policies start from the same noise and add the same noise in every step. What is shown in
each step is the latent itself, decoded. ``python -m agents.sample RUN --film FILE``
makes such a film of one policy.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agents.evaluation import evaluate
from agents.evaluation.evaluation import spread
from agents.evaluation.film import DecodedSteps, film_to_write, write_film
from agents.policy import UNetPolicy
from agents.runs.builders import (
    Env,
    base_env,
    base_policy,
    evaluation_prompts,
    load_policy,
    make_env,
    make_evaluation_env,
)
from agents.runs.run_folder import RunFolder
from diffusion_gym.images import Frame, image_grid

SCALE = 2
MARGIN = 20


def denoise(policy: UNetPolicy, env: Env, count: int, seed: int) -> list[Frame]:
    """Decoded latents x_0 … x_T of one image per prompt, T + 1 times ``[P, H, W, 3]``."""
    steps = DecodedSteps(policy.model)
    evaluate(policy, env, samples=1, prompts=count, seed=seed, watch=steps)
    return steps.frames


def labelled(before: Frame, after: Frame, prompts: Sequence[str]) -> Image.Image:
    """One frame: a row of pictures before training, one after it, and the prompts below."""
    grid = image_grid(np.concatenate([before, after]), len(prompts))
    pictures = Image.fromarray(grid)
    pictures = pictures.resize(
        (pictures.width * SCALE, pictures.height * SCALE), Image.Resampling.NEAREST
    )
    frame = Image.new("RGB", (pictures.width + MARGIN, pictures.height + MARGIN), "white")
    frame.paste(pictures, (MARGIN, 0))
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(12)
    cell = pictures.width / len(prompts)
    for number, prompt in enumerate(prompts):
        draw.text(
            (MARGIN + (number + 0.5) * cell, frame.height - MARGIN / 2),
            prompt,
            "black",
            font,
            "mm",
        )
    for row, text in enumerate(("before", "after")):
        label = Image.new("RGB", (pictures.height // 2, MARGIN), "white")
        ImageDraw.Draw(label).text((label.width / 2, MARGIN / 2), text, "black", font, "mm")
        frame.paste(label.rotate(90, expand=True), (0, row * pictures.height // 2))
    return frame


def main(arguments: Sequence[str] | None = None) -> list[Image.Image]:
    """Draws the film of a run; returns its frames."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run folder of agents.train")
    parser.add_argument("--prompts", nargs="+", help="default: some of the held-out ones")
    parser.add_argument("--columns", type=int, default=7, help="how many of those")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--output", default="film.gif", help="a GIF or an MP4")
    options = parser.parse_args(arguments)
    output = film_to_write(options.output)

    # 1. The policies of the run, and what they draw.
    run = RunFolder.open(options.run)
    prompts = options.prompts
    if prompts is None:
        env = make_env(run.settings)
        held_out = base_env(make_env(run.settings, prompts=evaluation_prompts(env))).prompts
        prompts = [held_out[i] for i in spread(len(held_out), options.columns)]
    trained, count = load_policy(run), len(prompts)
    drawn = make_evaluation_env(
        run.settings, prompts, count=count, samples=1, reward="jpeg_compressibility"
    )

    # 2. Both denoise the same noise.
    before, after = (
        denoise(policy, drawn, count, options.seed) for policy in (base_policy(trained), trained)
    )
    frames = [labelled(*pair, prompts) for pair in zip(before, after, strict=True)]
    write_film(frames, output)
    print(f"{len(frames)} frames, {output.stat().st_size / 1e3:.0f} kB: {output}")
    return frames


if __name__ == "__main__":
    main()
