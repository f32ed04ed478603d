"""A row of pictures of one run, kept beside its record."""

from pathlib import Path

from PIL import Image

from agents.evaluation.evaluation import spread
from agents.evaluation.image_metrics import Images
from agents.files import atomic
from diffusion_gym.images import image_grid

SUFFIX = ".webp"
COUNT = 10
"""Held-out prompts that a row shows, evenly spread over all."""


def chosen(prompts: int) -> list[int]:
    """The places of the prompts that a row shows."""
    return [int(place) for place in spread(prompts, COUNT)]


def save_strip(images: Images, path: Path) -> None:
    """Writes the first image of some of the prompts, side by side.

    Args:
        images: ``[P, S, H, W, 3]``.
        path: Where the WebP goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    row = image_grid(images[chosen(len(images)), 0], COUNT, gap=0)
    with atomic(path) as partial:
        Image.fromarray(row).save(partial, format="WEBP", quality=85, method=6)
