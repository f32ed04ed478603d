"""The pictures that a run ends with.

What users write, prompts and names of rewards, is shown as it is: it is no markup, and whatever
stands in it, the picture is drawn.
"""

import textwrap
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from agents.files import atomic
from diffusion_gym.images import image_grid

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text

Images = npt.NDArray[np.uint8]
DPI = 150

CAPTION_WIDTH, CAPTION_LINES = 22, 6
"""Characters of a prompt per line below its pictures, and lines; wide characters count twice."""

CAPTION_SIZE = 6
"""Of their letters, in points, where they fit."""

NAME_LENGTH = 50
"""Characters of a reward's name at an axis."""


@contextmanager
def _plain_text() -> Iterator[None]:
    """Makes every text of the figures drawn inside mean what it says: no mathtext, no TeX.

    Nor a warning for every character that the font lacks, for which it has a box.
    """
    plain: Any = {"text.parse_math": False, "text.usetex": False}
    with matplotlib.rc_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


@_plain_text()
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
    captions = [caption(prompt) for prompt in prompts[:shown]]
    below = 0.08 + 0.1 * max(text.count("\n") + 1 for text in captions)  # inches
    height = 2.1 * before.shape[2] / before.shape[3] + below
    figure = plt.figure(figsize=(0.3 + columns * 1.02, lines * height), dpi=DPI)
    parts: list[SubFigure] = figure.subfigures(lines, 1, squeeze=False).flatten().tolist()
    for line, part in enumerate(parts):
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
            label = axes[1, column].set_xlabel(captions[k], fontsize=CAPTION_SIZE, labelpad=2)
            _fit(label, axes[1, column])
        for axis in axes.flat:
            axis.set_visible(axis.has_data())
        for axis, label in zip(axes[:, 0], ("before", "after"), strict=True):
            axis.set_ylabel(label, fontsize=7, labelpad=2)
    _save(figure, path)


@_plain_text()
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
    axis.set_ylabel(textwrap.shorten(_printable(name), NAME_LENGTH, placeholder=" …"))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    _save(figure, path)


@_plain_text()
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
    picture = Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST)
    with atomic(path) as partial:
        picture.save(partial)


def caption(prompt: str) -> str:
    """A prompt in few short lines; the end of a long one is left out."""
    text = _printable(prompt)
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in text)
    width = CAPTION_WIDTH // 2 if wide else CAPTION_WIDTH
    lines = textwrap.wrap(text, width, max_lines=CAPTION_LINES, placeholder=" …")
    return "\n".join(lines)


def _fit(label: Text, axis: Axes) -> None:
    """Makes a label smaller where it is wider than the picture above."""
    width, room = label.get_window_extent().width, axis.get_window_extent().width
    if width > room:
        label.set_fontsize(CAPTION_SIZE * room / width)


def _printable(text: str) -> str:
    """Text of one line, in which what has no shape of its own is a space.

    That is what Unicode calls "other": control characters, marks of direction, lone surrogates.
    """
    shown = (" " if unicodedata.category(c).startswith("C") else c for c in text)
    return " ".join("".join(shown).split())


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as partial:
        figure.savefig(partial, dpi=DPI)
    plt.close(figure)
