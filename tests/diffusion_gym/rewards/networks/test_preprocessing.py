"""Sizes and pixels, beside Pillow and torchvision, which the models' authors use."""

import numpy as np
import pytest
import torch
from authors import pictures
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from torchvision.transforms import functional as transforms
from torchvision.transforms.functional import InterpolationMode

from diffusion_gym.rewards.networks.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    Preprocessing,
    crop,
    pad,
    pillow_resize,
    squash,
)


def as_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("height", "width", "new", "share"),
    [
        (512, 512, (224, 224), 0.001),
        (480, 640, (224, 298), 0.001),
        (96, 96, (32, 32), 0.001),
        (64, 64, (224, 224), 0.01),
    ],
)
def test_resizes_as_pillow_does(height, width, new, share) -> None:
    """Within the deviation that the docstring states."""
    sources = pictures(height, width)
    bicubic = Image.Resampling.BICUBIC
    expected = [np.asarray(as_pillow(image).resize(new[::-1], bicubic)) for image in sources]
    resized = pillow_resize(sources.float(), *new).permute(0, 2, 3, 1).numpy()
    deviation = np.abs(resized - np.stack(expected))
    assert deviation.max() <= 1
    picture, flat, gradient = (deviation > 0).mean(axis=(1, 2, 3))
    assert picture < share
    assert flat == 0
    assert gradient < 0.06


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (96, 96), (33, 50), (37, 36)])
def test_crops_as_torchvision_does(height: int, width: int) -> None:
    theirs = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32), ToTensor()])
    sources = pictures(height, width)
    expected = torch.stack([theirs(as_pillow(image)) for image in sources])
    result = crop(sources / 255, 32)
    assert result.shape == expected.shape
    assert (result - expected).abs().max() < 1.5 / 255
    assert ((result - expected).abs() > 0.5 / 255).float().mean() < 0.02


def test_squashes_and_leaves_what_fits() -> None:
    sources = pictures(48, 64)
    theirs = Compose([Resize((32, 32), InterpolationMode.BICUBIC), ToTensor()])
    expected = torch.stack([theirs(as_pillow(image)) for image in sources])
    assert ((squash(sources / 255, 32) - expected).abs() > 0.5 / 255).float().mean() < 0.01
    fitting = pictures(32, 32) / 255
    for fit in (crop, squash, pad):
        torch.testing.assert_close(fit(fitting, 32), fitting, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (31, 64)])
def test_pads_with_black(height: int, width: int) -> None:
    sources = pictures(height, width) / 255
    padded = pad(sources, 28)
    assert padded.shape == (3, 3, 28, 28)
    scale = 28 / max(height, width)
    inner = [round(height * scale), round(width * scale)]
    top, left = (28 - inner[0]) // 2, (28 - inner[1]) // 2
    expected = transforms.resize(sources, inner, InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(
        padded[..., top : top + inner[0], left : left + inner[1]], expected, atol=1e-6, rtol=0
    )
    border = torch.ones(28, 28, dtype=torch.bool)
    border[top : top + inner[0], left : left + inner[1]] = False
    assert (padded[..., border] == 0).all()


def test_normalises() -> None:
    sources = pictures(32, 32) / 255
    expected = Normalize(CLIP_MEAN, CLIP_STD)(sources)
    torch.testing.assert_close(Preprocessing(32)(sources), expected, atol=1e-5, rtol=0)
    halves = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), squash)
    torch.testing.assert_close(halves(sources), sources * 2 - 1, atol=1e-6, rtol=0)


def test_pictures_are_rounded_to_8_bits() -> None:
    sources = pictures(40, 40) / 255
    assert torch.equal(crop(sources + 0.4 / 255, 32), crop(sources, 32))
