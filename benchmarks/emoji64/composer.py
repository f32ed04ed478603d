"""Renders batches of scenes: sprites on a plain background."""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.emoji64.scenes import MAX_SPRITES, SceneBatch
from benchmarks.emoji64.sprites import Atlas, load_atlas
from diffusion_gym.emoji64.scenes import BACKGROUNDS

IMAGE_SIZE = 64
OVERSAMPLING = 2


class Composer:
    """Draws scenes with the sprites of an atlas."""

    def __init__(self, atlas: Atlas | None = None, device: torch.device | str = "cpu") -> None:
        """Takes the sprites to the device.

        Args:
            atlas: uint8 ``[styles, objects, 64, 64, 4]``; the one in ``data/`` by default.
            device: Where scenes are rendered.
        """
        self.device = torch.device(device)
        atlas = load_atlas() if atlas is None else atlas
        sprites = torch.from_numpy(atlas).to(self.device).float().permute(0, 1, 4, 2, 3) / 255
        # Premultiplied by alpha, so that colours of invisible pixels cannot bleed in.
        sprites[:, :, :3] *= sprites[:, :, 3:]
        self._sprites = sprites
        self._backgrounds = torch.tensor(list(BACKGROUNDS.values()), device=self.device) / 255

    def render(self, scenes: SceneBatch) -> Tensor:
        """Draws the scenes at twice the size and averages.

        Returns:
            ``[B, 3, 64, 64]`` in [0, 1].
        """
        canvas_size = OVERSAMPLING * IMAGE_SIZE
        backgrounds = self._backgrounds[scenes.background][:, :, None, None]
        canvas = backgrounds.repeat(1, 1, canvas_size, canvas_size)
        objects, styles, present = scenes.sprites()
        for slot in range(MAX_SPRITES):
            rows = present[:, slot].nonzero()[:, 0]
            if len(rows) == 0:
                continue
            sprites = self._sprites[styles[rows, slot], objects[rows, slot]]
            placement = _placement(scenes.x[rows, slot], scenes.y[rows, slot], scenes.size[rows])
            shape = [len(rows), 4, canvas_size, canvas_size]
            grid = functional.affine_grid(placement, shape, align_corners=False)
            placed = functional.grid_sample(sprites, grid, align_corners=False)
            colour, alpha = placed[:, :3], placed[:, 3:]
            canvas[rows] = canvas[rows] * (1 - alpha) + colour
        return functional.avg_pool2d(canvas, OVERSAMPLING)


def _placement(x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """Affine maps from the picture's coordinates in [-1, 1] to the sprite's, ``[N, 2, 3]``."""
    half = IMAGE_SIZE / 2
    zero = torch.zeros_like(size)
    return torch.stack(
        [
            torch.stack([1 / size, zero, (half - x) / half / size], 1),
            torch.stack([zero, 1 / size, (half - y) / half / size], 1),
        ],
        dim=1,
    )
