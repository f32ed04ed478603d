"""ImageReward's network (arXiv 2304.05977), of the BLIP parts (arXiv 2201.12086) of transformers.

A vision transformer reads the picture; a BERT reads the prompt and attends to the picture; linear
layers turn its first token into a number.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.rewards.networks.linear_head import linear_head
from diffusion_gym.rewards.networks.weights import fingerprint, load_weights

HEAD_WIDTH = 64
"""Width of one attention head in every BLIP; the weights' shapes do not tell it."""

_VISION, _TEXT = "blip.visual_encoder.", "blip.text_encoder."

_VISION_NAMES = {
    r"^cls_token$": "embeddings.class_embedding",
    r"^pos_embed$": "embeddings.position_embedding",
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^norm\.": "post_layernorm.",
    r"^blocks\.(\d+)\.norm(\d)\.": r"encoder.layers.\1.layer_norm\2.",
    r"^blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.self_attn.qkv.",
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.self_attn.projection.",
    r"^blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.mlp.",
}
"""The authors' names of the vision transformer's parts, and those in transformers."""


class ImageRewardNetwork(nn.Module):
    """The network, frozen.

    Args:
        vision: A ``transformers.BlipVisionModel``.
        text: A ``transformers.BlipTextModel`` with cross-attention.
        head: Layers from features [B, D] to numbers [B, 1], in float32.
        fingerprint: Tells its weights apart from others.
    """

    def __init__(self, vision: Any, text: Any, head: nn.Module, fingerprint: str) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.head = head
        self.fingerprint = fingerprint
        self.image_size: int = vision.config.image_size
        self.requires_grad_(False).eval()

    def cast(self, dtype: torch.dtype) -> Self:
        """Changes the precision of the transformers; the head stays in float32."""
        self.vision.to(dtype)
        self.text.to(dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = self.vision.device
        return device

    def forward(self, pixels: Tensor, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores pairs.

        Args:
            pixels: Prepared pictures [B, 3, S, S].
            token_ids: Prompts [B, L].
            attention_mask: 1 where a token is no padding [B, L].

        Returns:
            Float32 numbers [B], not yet standardised.
        """
        picture = self.vision(pixel_values=pixels.to(self.vision.dtype)).last_hidden_state
        features = self.text(
            input_ids=token_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=picture,
            use_cache=False,
        ).last_hidden_state
        numbers: Tensor = self.head(features[:, 0].float()).squeeze(1)
        return numbers


def load_image_reward(file: Path, device: str, dtype: str = "float32") -> ImageRewardNetwork:
    """Loads a checkpoint in the authors' layout; the sizes are those of its weights.

    Args:
        file: ``ImageReward.pt``, or the same weights as safetensors.
        device: Where the network shall run.
        dtype: Precision of the transformers; the head is float32.

    Raises:
        InvalidInputError: Unknown dtype.
        ModelLoadError: The file is damaged or holds something else.
    """
    # Imported here so that the other rewards do not wait for diffusers.
    from diffusion_gym.models.precision import resolve_dtype
    from diffusion_gym.models.shared import shared

    precision = resolve_dtype(dtype)
    key = ("image_reward", file, device, precision)
    return shared(key, lambda: _load(file).cast(precision).to(device))


def _load(file: Path) -> ImageRewardNetwork:
    from diffusion_gym.models.quiet import quiet_libraries

    weights = load_weights("imagereward", file)
    head = linear_head("imagereward", file, weights, "mlp.layers.")
    try:
        with quiet_libraries():
            vision = _vision(weights)
            text = _text(weights, vision.config.hidden_size)
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        # A weight that tells a size is missing, or sizes do not fit together.
        raise ModelLoadError(f"{file} holds no ImageReward network: {error}") from error
    return ImageRewardNetwork(vision, text, head, fingerprint(weights))


def _vision(weights: Mapping[str, Tensor]) -> Any:
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = weights[f"{_VISION}patch_embed.proj.weight"].shape
    patches = weights[f"{_VISION}pos_embed"].shape[1] - 1
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=weights[f"{_VISION}blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count_layers(weights, rf"{_VISION}blocks\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=patch * math.isqrt(patches),
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    model = BlipVisionModel(config)
    _fill(model, rename_vision_weights(weights))
    return model


def rename_vision_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Picks the vision transformer's weights, and names them as transformers does."""
    renamed = {}
    for name, tensor in _part(weights, _VISION).items():
        for theirs, ours in _VISION_NAMES.items():
            name = re.sub(theirs, ours, name)
        renamed[name] = tensor
    return renamed


def _text(weights: Mapping[str, Tensor], picture_width: int) -> Any:
    from transformers import BlipTextConfig, BlipTextModel

    vocabulary, width = weights[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=picture_width,
        intermediate_size=weights[f"{_TEXT}encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count_layers(weights, rf"{_TEXT}encoder\.layer\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=weights[f"{_TEXT}embeddings.position_embeddings.weight"].shape[0],
        is_decoder=True,  # gives it cross-attention; it is run without a causal mask
    )
    model = BlipTextModel(config, add_pooling_layer=False)
    _fill(model, _part(weights, _TEXT))
    return model


def _fill(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Loads weights; such as the model has no place for are left out, as its authors do."""
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise LookupError(f"missing: {', '.join(missing)}")


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _count_layers(weights: Mapping[str, Tensor], pattern: str) -> int:
    found = (re.match(pattern, name) for name in weights)
    return 1 + max(int(match[1]) for match in found if match)
