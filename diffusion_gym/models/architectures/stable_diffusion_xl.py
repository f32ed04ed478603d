"""Stable Diffusion XL (arXiv 2307.01952)."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from diffusion_gym.models.architectures.base import (
    AUTOENCODERS,
    CLIP_TOKENIZERS,
    Architecture,
    Config,
)
from diffusion_gym.models.architectures.stable_diffusion import unknown_conditions
from diffusion_gym.models.denoiser import Denoiser, DenoiserXL
from diffusion_gym.models.embedding import PromptEmbedding
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.text_encoders import (
    TextEncoder,
    penultimate_states,
    pooled_position_is_right,
)
from diffusion_gym.schedules.diffusers_config import DDIM_SCHEDULERS

TIME_IDS = 6
"""Numbers of a picture's geometry: its height and width, the crop's corner, the target's size."""


class StableDiffusionXL(Architecture):
    """A UNet that attends to two CLIPs and reads the second's pooled embedding and time ids."""

    pipeline = "StableDiffusionXLPipeline"
    parts = {  # noqa: RUF012 (a constant)
        "vae": AUTOENCODERS,
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": CLIP_TOKENIZERS,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": CLIP_TOKENIZERS,
        "unet": ("UNet2DConditionModel",),
        "scheduler": DDIM_SCHEDULERS,
    }

    sizes = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")

    def embedding_shape(
        self, config: Config, max_tokens: int, options: ModelOptions
    ) -> tuple[int, int]:
        """As `Architecture.embedding_shape`."""
        del options
        return max_tokens, int(config["cross_attention_dim"])

    def pooled_size(self, config: Config) -> int:
        """As `Architecture.pooled_size`."""
        geometry = TIME_IDS * int(config["addition_time_embed_dim"])
        return int(config["projection_class_embeddings_input_dim"]) - geometry

    def encode(
        self,
        encoders: Sequence[TextEncoder],
        prompts: Sequence[str],
        shape: tuple[int, int],
        clip_skip: int = 0,
    ) -> PromptEmbedding:
        """As `Architecture.encode`."""
        del shape
        first, _ = penultimate_states(encoders[0], prompts, clip_skip=clip_skip)
        second, pooled = penultimate_states(encoders[1], prompts, clip_skip=clip_skip)
        return PromptEmbedding(torch.cat([first, second], dim=-1), pooled)

    def null_is_zero(self, index: Config) -> bool:
        """As `Architecture.null_is_zero`; SDXL's own checkpoint says yes."""
        return bool(index.get("force_zeros_for_empty_prompt", True))

    def wrap(self, network: nn.Module, image_size: tuple[int, int]) -> Denoiser:
        """As `Architecture.wrap`."""
        return DenoiserXL(network, image_size)

    def problems(self, config: Config, encoders: Sequence[TextEncoder]) -> Iterator[str]:
        """As `Architecture.problems`."""
        first, second = encoders
        width = first.network.config.hidden_size + second.network.config.hidden_size
        if config.get("cross_attention_dim") != width:
            yield (
                f"expected a denoiser that reads prompt embeddings of both text encoders' widths "
                f"together, {width}, got cross_attention_dim={config.get('cross_attention_dim')}"
            )
        if config.get("addition_embed_type") != "text_time":
            yield (
                "expected a denoiser with addition_embed_type='text_time', got "
                f"{config.get('addition_embed_type')!r}"
            )
        elif self.pooled_size(config) != second.network.config.projection_dim:
            yield (
                "expected a denoiser that reads text_encoder_2's pooled embedding of size "
                f"{second.network.config.projection_dim}, got "
                "projection_class_embeddings_input_dim="
                f"{config['projection_class_embeddings_input_dim']}, which leaves it "
                f"{self.pooled_size(config)}"
            )
        yield from unknown_conditions(config, ("class_embed_type", "time_cond_proj_dim"))
        if first.max_tokens != second.max_tokens:
            yield (
                f"expected tokenizers that pad to the same length, got {first.max_tokens} and "
                f"{second.max_tokens}"
            )
        if not pooled_position_is_right(second):
            yield (
                f"expected text_encoder_2 to pool at its tokenizer's end token "
                f"{second.tokenizer.eos_token_id}, got "
                f"eos_token_id={second.network.config.eos_token_id}"
            )
