"""Conversions of images."""

import numpy as np
import torch
from torch.nn import functional as F

from diffusion_gym.rewards.images import resize, to_uint8


def test_every_level_survives_the_way_through_floats() -> None:
    levels = np.arange(256, dtype=np.uint8)
    images = torch.tensor(levels / np.float32(255)).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    assert (to_uint8(images)[0, :, :, 0].ravel() == levels).all()


def test_rounds_to_the_nearest_level_and_clips() -> None:
    values = torch.tensor([0.49, 0.51, 1.5, 254.6, 260.0, -3.0]) / 255
    images = values.view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_uint8(images)[0, 0, :, 2].tolist() == [0, 1, 2, 255, 255, 0]


def test_channels_come_last() -> None:
    images = torch.tensor([0.0, 0.2, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    array = to_uint8(images)
    assert array.shape == (2, 4, 5, 3)
    assert array[1, 3, 4].tolist() == [0, 51, 255]


def test_resize_averages_and_keeps_the_range() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    large = F.interpolate(images, scale_factor=8, mode="nearest")
    small = resize(large, 8)
    assert small.shape == images.shape
    assert small.min() >= 0
    assert small.max() <= 1
    assert torch.equal(small.round(), images)
    assert resize(images, 8) is images
    stripes = torch.tensor([0.0, 1.0]).repeat(32).expand(1, 3, 64, 64)
    torch.testing.assert_close(
        resize(stripes, 8)[..., 2:6], torch.full((1, 3, 8, 4), 0.5), atol=0.02, rtol=0
    )
