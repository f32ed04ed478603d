"""Images as numbers and as bytes: conversions that environments, rewards and pictures share."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_gym.checks import Count, CountOrNone, checked
from diffusion_gym.errors import InvalidInputError, first_line

Frame = npt.NDArray[np.uint8]


def to_uint8(images: Tensor) -> Tensor:
    """Converts images to the bytes that a file would hold.

    A value x in [0, 1] becomes the nearest of 0 ... 255, that is round(255 x) with halves to even,
    as diffusers does it; values outside are clipped.

    Args:
        images: Float images ``[B, 3, H, W]``.

    Returns:
        Bytes ``[B, H, W, 3]``, on the same device.
    """
    levels = to_levels(images.detach()).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


def to_levels(images: Tensor) -> Tensor:
    """Rounds images in [0, 1] to the levels 0.0, 1.0 ... 255.0 that a file would hold.

    Args:
        images: Images [B, 3, H, W].

    Returns:
        Float32 images of the same shape, on the same device.
    """
    return images.float().mul(255.0).round_().clamp_(0.0, 255.0)


def resize(images: Tensor, size: int) -> Tensor:
    """Resizes images to a square, as a network of fixed input size needs them.

    Bicubic with anti-aliasing, the filter of CLIP's own preprocessing; images of that size
    already come back as they are.

    Args:
        images: Float images [B, 3, H, W] in [0, 1].
        size: Height and width of the result, in pixels.

    Returns:
        Images [B, 3, size, size] in [0, 1].
    """
    if images.shape[-2:] == (size, size):
        return images
    resized = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    return resized.clamp(0.0, 1.0)


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
    columns, gap = checked("columns", columns, Count), checked("gap", gap, CountOrNone)
    try:
        stack = images.numpy(force=True) if isinstance(images, Tensor) else np.asarray(images)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise InvalidInputError(
            f"expected images [B, H, W, 3] of uint8, got {first_line(error)}"
        ) from error
    if stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8 or len(stack) == 0:
        raise InvalidInputError(
            f"expected images [B, H, W, 3] of uint8, got {stack.shape} of {stack.dtype}"
        )
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
