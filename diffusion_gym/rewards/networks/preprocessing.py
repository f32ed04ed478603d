"""How a picture gets the size and the pixels that a published reward model was trained on.

The models' authors hand over 8-bit files to Pillow; here whole batches stay on their device. Every
picture is rounded to 8 bits first, as a file would be.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from diffusion_gym.images import resize, to_levels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of the pixels in [0, 1] of CLIP's training images (arXiv 2103.00020)."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Their standard deviation."""

Fit = Callable[[Tensor, int], Tensor]
"""Brings images [B, 3, H, W] in [0, 1] to a square of some pixels."""


def crop(images: Tensor, size: int, mode: str = "bicubic") -> Tensor:
    """Resizes the shorter side as Pillow does, and cuts a square out of the middle.

    Where an odd number of pixels is left over, the cut lies where torchvision puts it; older
    versions of transformers put it half a pixel further up or left.

    Args:
        images: Images [B, 3, H, W] in [0, 1].
        size: Height and width of the result.
        mode: The filter: ``"bicubic"`` or ``"bilinear"``.
    """
    short = min(images.shape[-2:])
    height, width = (int(size * side / short) for side in images.shape[-2:])
    top, left = round((height - size) / 2), round((width - size) / 2)
    resized = pillow_resize(to_levels(images), height, width, mode)
    return resized[..., top : top + size, left : left + size] / 255.0


def resize_or_crop(images: Tensor, size: int) -> Tensor:
    """Square images as `diffusion_gym.images.resize`; of others what `crop` leaves of them.

    Args:
        images: Images [B, 3, H, W] in [0, 1].
        size: Height and width of the result.
    """
    square = images.shape[-1] == images.shape[-2]
    return resize(images, size) if square else crop(images, size)


def squash(images: Tensor, size: int, mode: str = "bicubic") -> Tensor:
    """Resizes to a square as Pillow does, whatever the proportions; arguments as of `crop`."""
    return pillow_resize(to_levels(images), size, size, mode) / 255.0


def pad(images: Tensor, size: int) -> Tensor:
    """Resizes the longer side, and centres the picture between black borders.

    The resized pixels are not rounded, and may lie a little outside [0, 1], as torchvision leaves
    them when it resizes float tensors.

    Args:
        images: Images [B, 3, H, W] in [0, 1].
        size: Height and width of the result.
    """
    scale = size / max(images.shape[-2:])
    height, width = (round(side * scale) for side in images.shape[-2:])
    resized = F.interpolate(
        to_levels(images) / 255.0, (height, width), mode="bicubic", antialias=True
    )
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(resized, (left, size - width - left, top, size - height - top))


def pillow_resize(levels: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """Resizes 8-bit images as Pillow does: rows first, rounded to 8 bits, then columns.

    Measured from 64 ... 1024 pixels to 32 and 224: never more than one level from Pillow's result,
    in 0.1% of the pixels when shrinking and 0.6% when enlarging; in up to 5% of an artificial
    gradient's, where half levels are frequent, which Pillow's fixed-point sums round either way.
    Resizing both directions at once deviates by up to 10 levels, and in 10 to 20% of the pixels.

    Args:
        levels: Whole numbers from 0.0 to 255.0 [B, 3, H, W].
        height: New height.
        width: New width.
        mode: The filter: ``"bicubic"`` or ``"bilinear"``.
    """
    for shape in ((levels.shape[-2], width), (height, width)):
        resized = F.interpolate(levels, shape, mode=mode, antialias=True)
        levels = (resized + 0.5).floor().clamp(0.0, 255.0)
    return levels


@dataclass(frozen=True)
class Preprocessing:
    """What turns images into the input of a network.

    Attributes:
        size: Height and width of the network's input.
        mean: Subtracted from each channel of the images in [0, 1].
        std: What each channel is divided by.
        fit: Brings the images to that size.
    """

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    fit: Fit = crop

    def __call__(self, images: Tensor) -> Tensor:
        """Prepares float32 images [B, 3, H, W] in [0, 1]; returns pixels [B, 3, size, size]."""
        fitted = self.fit(images, self.size)
        mean = fitted.new_tensor(self.mean).view(1, 3, 1, 1)
        std = fitted.new_tensor(self.std).view(1, 3, 1, 1)
        return (fitted - mean) / std
