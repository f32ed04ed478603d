"""Conversions of images, and grids of them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.images import image_grid, resize, to_uint8


def test_every_level_survives_the_way_through_floats() -> None:
    levels = np.arange(256, dtype=np.uint8)
    images = torch.tensor(levels / np.float32(255)).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    assert (to_uint8(images)[0, :, :, 0].flatten().numpy() == levels).all()


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


def test_bytes_are_rounded_as_diffusers_does():
    images = torch.tensor([0.0, 0.5, 1.0, -0.2, 1.2, 0.998]).view(1, 1, 1, 6).expand(1, 3, 2, 6)
    frames = to_uint8(images)
    assert frames.shape == (1, 2, 6, 3)
    assert frames.dtype == torch.uint8
    assert frames[0, 0, :, 0].tolist() == [0, 128, 255, 0, 255, 254]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_grid_has_the_images_in_reading_order(kind):
    images = np.stack([np.full((4, 5, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = image_grid(kind(images), columns=2, gap=1)
    assert grid.shape == (9, 11, 3)
    assert (grid[:4, :5] == 10).all()
    assert (grid[:4, 6:] == 20).all()
    assert (grid[5:, :5] == 30).all()
    assert (grid[5:, 6:] == 255).all()
    assert (grid[4] == 255).all()


def test_a_grid_is_not_wider_than_its_images():
    assert image_grid(np.zeros((2, 4, 4, 3), np.uint8), columns=9).shape == (4, 10, 3)


@pytest.mark.parametrize(
    ("images", "columns", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), 2, r"\[B, H, W, 3\] of uint8, got \(4, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.float32), 2, "of float32"),
        (np.zeros((0, 4, 4, 3), np.uint8), 2, r"got \(0, 4, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), 0, "columns to be a whole number of at least 1, got 0"),
    ],
)
def test_bad_grids(images, columns, message):
    with pytest.raises(InvalidInputError, match=message):
        image_grid(images, columns)
