"""The pictures that a run ends with."""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from diffusion_gym.images import image_grid

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Images = npt.NDArray[np.uint8]
CAPTION_WIDTH = 22
"""Characters of a prompt per line below its pictures."""


def before_after(
    before: Images,
    after: Images,
    prompts: list[str],
    path: Path,
    *,
    columns: int = 10,
    rows: int = 2,
) -> None:
    """Draws pairs of images from the same noise, the base model's above the trained one's.

    Args:
        before: ``[P, S, H, W, 3]``; the first sample of each prompt is shown.
        after: Likewise.
        prompts: The P prompts, shown below their pairs.
        path: Where the PNG goes.
        columns: Pairs side by side.
        rows: Rows of pairs.
    """
    columns = min(columns, len(prompts))
    shown = min(len(prompts), columns * rows)
    lines = -(-shown // columns)
    captions = [textwrap.fill(prompt, CAPTION_WIDTH) for prompt in prompts[:shown]]
    below = 0.08 + 0.1 * max(caption.count("\n") + 1 for caption in captions)  # inches
    height = 2.1 + below
    figure = plt.figure(figsize=(0.3 + columns * 1.02, lines * height))
    for line, part in enumerate(np.atleast_1d(figure.subfigures(lines, 1))):
        axes = part.subplots(2, columns, squeeze=False)
        part.subplots_adjust(
            left=0.25 / (0.3 + columns),
            right=0.995,
            top=0.99,
            bottom=below / height,
            wspace=0.05,
            hspace=0.05,
        )
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("0.8")
        for column, k in enumerate(range(line * columns, min(shown, (line + 1) * columns))):
            for axis, images in zip(axes[:, column], (before, after), strict=True):
                axis.imshow(images[k, 0], interpolation="nearest")
            axes[1, column].set_xlabel(captions[k], fontsize=6, labelpad=2)
        for axis in axes.flat:
            axis.set_visible(axis.has_data())
        for axis, label in zip(axes[:, 0], ("before", "after"), strict=True):
            axis.set_ylabel(label, fontsize=7, labelpad=2)
    _save(figure, path)


def reward_curve(
    images: list[float], rewards: list[float], held_out: tuple[float, float], name: str, path: Path
) -> None:
    """Draws the training reward over images, with the held-out reward before and after.

    Args:
        images: Images drawn so far, one per round.
        rewards: Mean reward of each round.
        held_out: Mean reward on held-out prompts before and after training.
        name: The reward's name.
        path: Where the PNG goes.
    """
    figure, axis = plt.subplots(figsize=(6, 3.6))
    axis.plot(images, rewards, color="tab:blue", label="training prompts, per round")
    axis.plot(
        [0, images[-1]],
        held_out,
        "o",
        color="tab:orange",
        label="held-out prompts, before and after",
    )
    axis.set_xlabel("images drawn (reward queries)")
    axis.set_ylabel(name)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    _save(figure, path)


def credit_per_step(shares: list[float], path: Path) -> None:
    """Draws the mean share of every denoising step in the return.

    Args:
        shares: ``[T]``, from the noisiest step on.
        path: Where the PNG goes.
    """
    figure, axis = plt.subplots(figsize=(6, 3))
    axis.bar(range(len(shares)), shares, color="tab:blue")
    axis.axhline(1 / len(shares), color="0.5", linestyle="--", label="uniform")
    axis.set_xlabel("denoising step, the noisiest first")
    axis.set_ylabel("share of the return")
    axis.legend()
    figure.tight_layout()
    _save(figure, path)


def image_sheet(images: Images, columns: int, path: Path, *, scale: int = 2) -> None:
    """Saves images ``[N, H, W, 3]`` side by side, enlarged without smoothing."""
    sheet = image_grid(images, columns, gap=0)
    size = (sheet.shape[1] * scale, sheet.shape[0] * scale)
    Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST).save(path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
