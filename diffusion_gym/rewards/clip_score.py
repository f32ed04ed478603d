"""How well does a picture fit its prompt, as CLIP (arXiv 2103.00020) sees it?"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.rewards.base import RewardResult
from diffusion_gym.rewards.images import resize


class ClipScore:
    """Cosine similarity of the embeddings of picture and prompt, in [-1, 1].

    Pictures are resized to the network's square input; a picture that is not square is squeezed.
    Prompts longer than the network's text are cut.

    Args:
        folder: A CLIP model as transformers saves it: ``config.json``, weights, tokenizer, and
            ``processor_config.json`` or ``preprocessor_config.json``.
        device: Where the network runs.

    Raises:
        ModelLoadError: A file is missing or damaged, or the folder holds another kind of model.
    """

    name = "clip_score"
    version = "1"

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        self.folder = Path(folder)
        self._device = device
        self._clip = load_clip(self.folder.resolve(), device)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1]."""
        # Rollouts repeat their prompts; each different one is embedded once.
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        output = self._clip.model(
            **self._clip.tokens(list(numbers), self._device),
            pixel_values=self._clip.pixels(images.to(self._device, torch.float32)),
        )
        # The model returns embeddings of length 1: their product is the cosine.
        text = output.text_embeds[[numbers[prompt] for prompt in prompts]]
        return RewardResult.from_values((output.image_embeds * text).sum(dim=1))

    def __repr__(self) -> str:
        return f"ClipScore({str(self.folder)!r})"


class Clip(NamedTuple):
    """A CLIP model and what prepares its inputs.

    Attributes:
        model: A frozen ``transformers.CLIPModel``.
        tokenizer: Its tokenizer.
        mean: Mean of the pixels it was trained on [1, 3, 1, 1].
        std: Their standard deviation [1, 3, 1, 1].
    """

    model: Any
    tokenizer: Any
    mean: Tensor
    std: Tensor

    def tokens(self, prompts: list[str], device: str) -> dict[str, Tensor]:
        """Prepares prompts; all get the same length, so that no row depends on its batch."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}

    def pixels(self, images: Tensor) -> Tensor:
        """Prepares images [B, 3, H, W] in [0, 1]."""
        resized = resize(images, self.model.config.vision_config.image_size)
        return (resized - self.mean) / self.std

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Embeds images [B, 3, H, W] in [0, 1] as directions [B, D], on the model's device."""
        pixels = self.pixels(images.to(self.mean))
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=1)


@functools.cache
def load_clip(folder: Path, device: str) -> Clip:
    """Loads a CLIP model once per process, folder and device; it is frozen and shared.

    Args:
        folder: As of :class:`ClipScore`.
        device: Where the network shall run.

    Raises:
        ModelLoadError: A file is missing or damaged, or the folder holds another kind of model.
    """
    # Imported here so that the other rewards do not wait for transformers.
    from transformers import AutoTokenizer, CLIPModel

    from diffusion_gym.models.quiet import quiet_libraries

    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"clip_score needs {folder / 'config.json'}, which does not exist")
    mean, std = _pixel_statistics(folder)
    try:
        with quiet_libraries():
            model, loading = CLIPModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelLoadError(f"cannot load a CLIP model from {folder}: {error}") from error
    if loading["missing_keys"]:
        # transformers would fill them with random numbers.
        raise ModelLoadError(
            f"the weights in {folder} are not a whole CLIP model; "
            f"missing: {', '.join(sorted(loading['missing_keys']))}"
        )
    model.requires_grad_(False).eval().to(device)
    return Clip(model, tokenizer, mean.to(device), std.to(device))


def _pixel_statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Reads mean and standard deviation of the pixels that a CLIP model was trained on."""
    names = ("processor_config.json", "preprocessor_config.json")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise ModelLoadError(f"clip_score needs {' or '.join(names)} in {folder}, found neither")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config = config.get("image_processor", config)
        mean, std = (
            torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std")
        )
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelLoadError(f"{file} states no image_mean and image_std: {error}") from error
    return mean, std
