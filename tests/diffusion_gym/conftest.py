"""Pictures composed of the emoji that the embedded model was trained on, and what reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion_gym.emoji64.scenes import BACKGROUNDS, OBJECTS, STYLES
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.rewards.builtin import load_verifier

ATLAS = Path(__file__).parents[2] / "benchmarks" / "emoji64" / "data" / "atlas.npz"

Placed = tuple[str, str, int, int]
"""An emoji: its name, its style, and the pixel of its centre."""

Compose = Callable[..., Tensor]


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Draws ``compose("white", ("cat", "3d", 32, 32), size=45)`` as an image [3, 64, 64]."""
    sprites = np.load(ATLAS)["atlas"]
    indices = {item.name: index for index, item in enumerate(OBJECTS)}

    def draw(background: str, *placed: Placed, size: int = 45) -> Tensor:
        canvas = Image.new("RGB", (128, 128), BACKGROUNDS[background])
        for name, style, x, y in placed:
            sprite = Image.fromarray(sprites[STYLES.index(style), indices[name]])
            sprite = sprite.resize((2 * size, 2 * size), Image.Resampling.BILINEAR)
            canvas.paste(sprite, (2 * x - size, 2 * y - size), sprite)
        array = np.asarray(canvas.reduce(2), dtype=np.float32) / 255
        return torch.from_numpy(array).permute(2, 0, 1)

    return draw


@pytest.fixture(scope="session")
def verifier() -> SceneVerifier:
    """The network that reads the pictures."""
    return load_verifier("cpu")
