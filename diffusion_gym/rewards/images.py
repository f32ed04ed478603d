"""Conversions of images that several rewards share."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Converts images to the bytes that a file would hold.

    A value x in [0, 1] becomes the nearest of 0 ... 255, that is round(255 x) with halves to even;
    values outside are clipped.

    Args:
        images: Float images [B, 3, H, W].

    Returns:
        Array [B, H, W, 3] in the CPU's memory.
    """
    levels = to_levels(images.detach()).to(torch.uint8)
    array: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).cpu().numpy()
    return array


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
