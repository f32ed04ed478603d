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
    levels = images.detach().float().mul(255.0).round().clamp(0.0, 255.0)
    array: NDArray[np.uint8] = levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return array


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
