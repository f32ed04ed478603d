"""Checkpoints on disk that a test may break."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_gym.models import emoji64_folder

EMBEDDED = emoji64_folder() / "pipeline"
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


class Checkpoint:
    """A diffusers folder that a test may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def weights(self, part: str) -> Path:
        """The weight file of a part."""
        return self.folder / part / WEIGHTS[part]

    def edit_weights(self, part: str, change: Callable[[dict[str, Tensor]], Any]) -> None:
        """Rewrites a weight file after a change of its tensors."""
        tensors = load_file(self.weights(part))
        change(tensors)
        save_file(tensors, self.weights(part), metadata={"format": "pt"})

    def edit_json(self, name: str, **changes: Any) -> None:
        """Changes entries of a JSON file."""
        file = self.folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
