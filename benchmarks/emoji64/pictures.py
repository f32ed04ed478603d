"""A cache of rendered scenes on the training device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.emoji64.composer import Composer
from benchmarks.emoji64.sampling import sample_scenes
from benchmarks.emoji64.scenes import SceneBatch, concatenate

RENDER_BATCH = 2048


@dataclass(frozen=True)
class Pictures:
    """N pictures and what is in them.

    Attributes:
        pixels: uint8 ``[N, 3, 64, 64]``.
        scenes: The N scenes.
    """

    pixels: Tensor
    scenes: SceneBatch

    def __len__(self) -> int:
        return len(self.pixels)


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8."""
    return (images.float().clamp(0, 1) * 255).round().byte()


def to_network_range(images: Tensor) -> Tensor:
    """Images in [0, 1] as the autoencoder and CLIP want them: [-1, 1], channels last."""
    return (images * 2 - 1).contiguous(memory_format=torch.channels_last)


def from_bytes(pixels: Tensor) -> Tensor:
    """The inverse of `to_bytes`: images in [0, 1]."""
    return pixels.float() / 255


@torch.no_grad()
def make_pictures(composer: Composer, grid: int, free: int) -> Pictures:
    """Renders fresh scenes, ``grid`` of them on the grid and ``free`` of them freely placed."""
    pixels, scenes = [], []
    for number, is_free in ((grid, False), (free, True)):
        for start in range(0, number, RENDER_BATCH):
            size = min(RENDER_BATCH, number - start)
            batch = sample_scenes(size, free=is_free, device=composer.device)
            pixels.append(to_bytes(composer.render(batch)))
            scenes.append(batch)
    return Pictures(torch.cat(pixels), concatenate(scenes))
