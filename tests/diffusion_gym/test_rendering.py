"""Frames and grids."""

import numpy as np
import pytest
import torch

from diffusion_gym import image_grid
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rendering import to_uint8


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
        (np.zeros((1, 4, 4, 3), np.uint8), 0, "at least one column, got 0"),
    ],
)
def test_bad_grids(images, columns, message):
    with pytest.raises(InvalidInputError, match=message):
        image_grid(images, columns)
