"""A film of the denoising, from noise to picture, before and after training.

``python examples/denoising_film.py runs/house_style-seed0``, after ``python -m agents.train``.

Both policies start from the same noise and add the same noise in every step. What is shown in
each step is the latent itself, decoded.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from agents.policy import UNetPolicy
from agents.runs.builders import base_env, base_policy, evaluation_prompts, load_policy, make_env
from agents.runs.run_folder import RunFolder
from diffusion_gym.images import Frame, image_grid, to_uint8

SCALE = 2
MARGIN = 20
STEP_MS, HOLD_MS = 160, 2400
COLOURS = 256


@torch.no_grad()
def denoise(policy: UNetPolicy, prompts: Sequence[str], seed: int) -> list[Frame]:
    """Decoded latents x_0 … x_T of one image per prompt, T + 1 times ``[P, H, W, 3]``."""
    model, schedule = policy.model, policy.schedule
    generator = torch.Generator().manual_seed(seed)
    shape = (len(prompts), *model.latent_shape)
    embedding = model.encode(prompts)
    latents = torch.randn(shape, generator=generator).to(model.device)
    frames = [latents]
    for i in range(schedule.num_steps):
        index = torch.full((len(prompts),), i, device=model.device)
        step = policy.transition(latents, index, embedding)
        noise = torch.randn(shape, generator=generator).to(model.device)
        latents = schedule.sample(step, noise=noise)
        frames.append(latents)
    return [to_uint8(model.decode(frame)).numpy(force=True) for frame in frames]


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


def write_gif(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes the film with one palette for all frames."""
    width, height = frames[0].size
    together = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        together.paste(frame, (0, height * number))
    palette = together.quantize(COLOURS, kmeans=1)
    coded = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [STEP_MS] * (len(frames) - 1) + [HOLD_MS]
    coded[0].save(
        path, save_all=True, append_images=coded[1:], duration=durations, loop=0, optimize=True
    )


def main(arguments: Sequence[str] | None = None) -> list[Image.Image]:
    """Draws the film of a run; returns its frames."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run folder of agents.train")
    parser.add_argument("--prompts", nargs="+", help="default: some of the held-out ones")
    parser.add_argument("--columns", type=int, default=7, help="how many of those")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--output", type=Path, default=Path("film.gif"))
    options = parser.parse_args(arguments)

    # 1. The policies of the run, and what they draw.
    run = RunFolder.open(options.run)
    prompts = options.prompts
    if prompts is None:
        env = make_env(run.settings)
        held_out = base_env(make_env(run.settings, prompts=evaluation_prompts(env))).prompts
        chosen = np.linspace(0, len(held_out) - 1, options.columns).round().astype(int)
        prompts = [held_out[i] for i in chosen]
    trained = load_policy(run)

    # 2. Both denoise the same noise.
    before, after = (
        denoise(policy, prompts, options.seed) for policy in (base_policy(trained), trained)
    )
    frames = [labelled(*pair, prompts) for pair in zip(before, after, strict=True)]
    write_gif(frames, options.output)
    print(f"{len(frames)} frames, {options.output.stat().st_size / 1e3:.0f} kB: {options.output}")
    return frames


if __name__ == "__main__":
    main()
