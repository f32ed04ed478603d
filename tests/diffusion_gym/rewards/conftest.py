"""Pictures composed of the emoji that the embedded model was trained on, and small networks."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from authors import draw, reference
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.emoji64.scenes import BACKGROUNDS, OBJECTS, STYLES
from diffusion_gym.emoji64.verifier import SceneVerifier, load_verifier

ATLAS = Path(__file__).parents[3] / "benchmarks" / "emoji64" / "data" / "atlas.npz"

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
    return load_verifier(emoji64_folder() / "verifier", "cpu")


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of open_clip as a folder of its own."""
    folder = tmp_path_factory.mktemp("open_clip")
    recorded = reference("hpsv2")
    statistics = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27],
    }
    config = {"model_cfg": recorded["config"], "preprocess_cfg": statistics}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(draw(recorded["parameters"], 8), folder / "open_clip_model.safetensors")
    return folder
