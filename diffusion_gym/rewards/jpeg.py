"""How small, or how large, a picture is as a JPEG file."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffusion_gym.errors import InvalidInputError, shown
from diffusion_gym.images import to_uint8
from diffusion_gym.rewards.base import RewardResult

QUALITY = 95
"""DDPO's setting (arXiv 2305.13301)."""

SUBSAMPLING = 2
"""Pillow's number for 4:2:0, its default; fixed here so that a default cannot change rewards."""


class JpegSize:
    """Size of the JPEG file, as a reward for small or for large files.

    The unit is the kilobyte of 1000 bytes, headers included. Pixels are rounded to 8 bits first;
    the file is Pillow's, at quality 95 with 4:2:0 chroma subsampling. Its term ``size_kb`` is the
    size itself.

    Args:
        sign: -1 rewards compressibility, +1 incompressibility.

    Raises:
        InvalidInputError: The sign is neither.
    """

    version = "1"

    def __init__(self, sign: int) -> None:
        if sign not in (-1, 1):
            raise InvalidInputError(f"sign must be -1 or 1, got {shown(sign)}")
        self.name = "jpeg_compressibility" if sign < 0 else "jpeg_incompressibility"
        self.sign = sign

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1]; the prompts do not matter."""
        sizes = (
            torch.tensor([jpeg_bytes(array) for array in to_uint8(images).cpu().numpy()]) / 1000.0
        )
        return RewardResult.from_values(self.sign * sizes, {"size_kb": sizes})

    def __repr__(self) -> str:
        return f"JpegSize({self.sign:+d})"


def jpeg_bytes(array: NDArray[np.uint8]) -> int:
    """Returns the number of bytes of a picture [H, W, 3] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return buffer.tell()
