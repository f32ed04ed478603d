"""The pictures that a run ends with."""

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Images = npt.NDArray[np.uint8]


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
    shown = min(len(prompts), columns * rows)
    lines = -(-shown // columns)
    figure, axes = plt.subplots(
        2 * lines, columns, figsize=(columns * 1.05, lines * 2.45), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for k in range(shown):
        line, column = divmod(k, columns)
        for offset, images in enumerate((before, after)):
            axis = axes[2 * line + offset, column]
            axis.imshow(images[k, 0], interpolation="nearest")
        axes[2 * line + 1, column].set_title(prompts[k], fontsize=6, y=-0.22, wrap=True)
    for line in range(lines):
        for offset, label in enumerate(("before", "after")):
            axes[2 * line + offset, 0].text(
                -0.12,
                0.5,
                label,
                rotation=90,
                fontsize=7,
                va="center",
                ha="center",
                transform=axes[2 * line + offset, 0].transAxes,
            )
    figure.subplots_adjust(left=0.03, right=0.995, top=0.99, bottom=0.05, wspace=0.05, hspace=0.12)
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


def image_sheet(images: Images, columns: int, path: Path, *, scale: int = 2) -> None:
    """Saves images ``[N, H, W, 3]`` side by side, enlarged without smoothing."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for k, image in enumerate(images):
        y, x = divmod(k, columns)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
    size = (sheet.shape[1] * scale, sheet.shape[0] * scale)
    Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST).save(path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
