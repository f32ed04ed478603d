"""From latents and images in [0, 1] to frames that can be shown or saved."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models.model import DiffusionModel

Frame = npt.NDArray[np.uint8]


def to_uint8(images: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` in [0, 1] as bytes ``[B, H, W, 3]``, rounded like diffusers does."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def render_latents(model: DiffusionModel, latents: Tensor) -> Frame:
    """Decodes latents ``[B, C, h, w]`` to frames ``[B, H, W, 3]``."""
    frames: Frame = to_uint8(model.decode(latents)).cpu().numpy()
    return frames


def image_grid(images: Tensor | npt.ArrayLike, columns: int, *, gap: int = 2) -> Frame:
    """Puts images side by side, row after row, on white.

    Args:
        images: ``[B, H, W, 3]`` uint8.
        columns: Images per row, at least 1.
        gap: White pixels between neighbours.

    Returns:
        One picture ``[H', W', 3]``; an incomplete last row ends in white.

    Raises:
        InvalidInputError: For another shape or dtype, no image, or fewer than one column.
    """
    stack = images.cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8 or len(stack) == 0:
        raise InvalidInputError(
            f"expected images [B, H, W, 3] of uint8, got {stack.shape} of {stack.dtype}"
        )
    if columns < 1:
        raise InvalidInputError(f"expected at least one column, got {columns}")
    count, height, width, _ = stack.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    grid = np.full(size, 255, dtype=np.uint8)
    for number, image in enumerate(stack):
        top = number // columns * (height + gap)
        left = number % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid
