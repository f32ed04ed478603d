"""A row of pictures of one run, kept beside its record."""

from pathlib import Path

import numpy as np
from PIL import Image

from agents.evaluation.image_metrics import Images
from agents.files import atomic

SUFFIX = ".webp"
COUNT = 10
"""Held-out prompts that a row shows, evenly spread over all."""


def chosen(prompts: int) -> list[int]:
    """The places of the prompts that a row shows."""
    return [int(k) for k in np.linspace(0, prompts - 1, min(COUNT, prompts)).round()]


def save_strip(images: Images, path: Path) -> None:
    """Writes the first image of some of the prompts, side by side.

    Args:
        images: ``[P, S, H, W, 3]``.
        path: Where the WebP goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.concatenate([images[k, 0] for k in chosen(len(images))], axis=1)
    with atomic(path) as partial:
        Image.fromarray(row).save(partial, format="WEBP", quality=85, method=6)
