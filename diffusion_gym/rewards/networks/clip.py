"""CLIP models (arXiv 2103.00020) as transformers saves them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.rewards.networks.preprocessing import Fit, Preprocessing, resize_or_crop
from diffusion_gym.rewards.networks.weights import find_file, fingerprint


class Clip:
    """A frozen CLIP model and what prepares its inputs.

    Attributes:
        model: A ``transformers.CLIPModel``.
        logit_scale: What its training multiplied cosines by.
        fingerprint: Tells its weights apart from others.
    """

    def __init__(self, model: Any, tokenizer: Any, preprocessing: Preprocessing) -> None:
        self.model = model
        self.logit_scale = model.logit_scale.exp().item()
        self.fingerprint = fingerprint(model.state_dict())
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Embeds images [B, 3, H, W] in [0, 1] as float32 directions [B, D]."""
        images = images.to(self.model.device, torch.float32)
        pixels = self._preprocessing(images).to(self.model.dtype)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled).float(), dim=1)

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeds N prompts as float32 directions [N, D]; long ones are cut."""
        # All get the same length, so that no row depends on its batch.
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        inputs = {key: tokens[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
        pooled = self.model.text_model(**inputs).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=1)


def load_clip(
    source: str | Path,
    device: str,
    dtype: str = "float32",
    *,
    processor: str | None = None,
    fit: Fit = resize_or_crop,
    reward: str = "clip_score",
    option: str | None = "pretrained",
) -> Clip:
    """Loads a CLIP model; it is frozen, and shared while somebody holds it.

    Args:
        source: A folder as transformers saves it, or the id of a repository on the hub.
        device: Where the network shall run.
        dtype: Precision of the network.
        processor: Where the tokenizer and the pixels' statistics come from; None: from the source.
        fit: Brings images to the size of the network's input.
        reward: What needs the model, for messages.
        option: Its option that names the source, for messages; None: it is no reward.

    Raises:
        InvalidInputError: Unknown dtype.
        ModelLoadError: A file is missing or damaged, or holds another kind of model.
    """
    # Imported here so that the other rewards do not wait for diffusers.
    from diffusion_gym.models.precision import resolve_dtype
    from diffusion_gym.models.shared import shared

    precision = resolve_dtype(dtype)

    def make() -> Clip:
        # Fails here, with what to do about it, where the source is not to be had.
        find_file(reward, option, str(source), "config.json", whole_folder=True)
        model = _load_model(reward, source)
        other = source if processor is None else processor
        other_option = option if processor is None else "processor"
        mean, std = _pixel_statistics(reward, other_option, Path(other))
        preprocessing = Preprocessing(model.config.vision_config.image_size, mean, std, fit)
        clip = Clip(model, _load_tokenizer(reward, other), preprocessing)
        model.requires_grad_(False).eval().to(device, precision)
        return clip

    return shared(("clip", str(source), processor, fit, device, precision), make)


def _load_model(reward: str, source: str | Path) -> Any:
    from transformers import CLIPModel

    from diffusion_gym.models.quiet import quiet_libraries

    try:
        with quiet_libraries():
            model, loading = CLIPModel.from_pretrained(
                source, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # damaged files raise errors of many unrelated classes
        raise ModelLoadError(f"{reward} cannot load a CLIP model from {source}: {error}") from error
    if loading["missing_keys"]:
        # transformers would fill them with random numbers.
        raise ModelLoadError(
            f"the weights in {source} are not a whole CLIP model; "
            f"missing: {', '.join(sorted(loading['missing_keys']))}"
        )
    return model


def _load_tokenizer(reward: str, source: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # damaged files raise errors of many unrelated classes
        raise ModelLoadError(f"{reward} cannot load a tokenizer from {source}: {error}") from error


_STATISTICS_FILES = ("processor_config.json", "preprocessor_config.json")


def _pixel_statistics(
    reward: str, option: str | None, source: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Reads mean and standard deviation of the pixels that a CLIP model was trained on."""
    files = [source / name for name in _STATISTICS_FILES if (source / name).is_file()]
    if source.is_dir() and not files:
        names = " or ".join(_STATISTICS_FILES)
        raise ModelLoadError(f"{reward} needs {names} in {source}, found neither")
    if files:
        file = files[0]
    else:
        file = find_file(reward, option, str(source), _STATISTICS_FILES[1], whole_folder=True)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config = config.get("image_processor", config)
        red, green, blue = map(float, config["image_mean"])
        mean = (red, green, blue)
        red, green, blue = map(float, config["image_std"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"{file} states no image_mean and image_std: {error}") from error
    return mean, (red, green, blue)
