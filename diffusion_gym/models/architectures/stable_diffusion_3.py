"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from diffusion_gym.models.architectures.base import (
    AUTOENCODERS,
    CLIP_TOKENIZERS,
    T5_TOKENIZERS,
    Architecture,
    Config,
)
from diffusion_gym.models.denoiser import Denoiser, Denoiser3
from diffusion_gym.models.embedding import PromptEmbedding
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.text_encoders import (
    TextEncoder,
    penultimate_states,
    pooled_position_is_right,
    t5_states,
    zero_states,
)
from diffusion_gym.schedules.diffusers_config import FLOW_SCHEDULERS


class StableDiffusion3(Architecture):
    """A transformer over the tokens of image, two CLIPs and, if it is there, T5.

    Its default is 10 steps, with which Flow-GRPO (arXiv 2505.05470) trains it; 28 to 40 draw the
    pictures to show.
    """

    pipeline = "StableDiffusion3Pipeline"
    parts = {  # noqa: RUF012 (a constant)
        "vae": AUTOENCODERS,
        "text_encoder": ("CLIPTextModelWithProjection",),
        "tokenizer": CLIP_TOKENIZERS,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": CLIP_TOKENIZERS,
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer_3": T5_TOKENIZERS,
        "transformer": ("SD3Transformer2DModel",),
        "scheduler": FLOW_SCHEDULERS,
    }
    optional_parts = ("text_encoder_3", "tokenizer_3")
    denoiser_part = "transformer"
    num_inference_steps = 10
    sizes = ("patch_size", "pos_embed_max_size", "joint_attention_dim", "pooled_projection_dim")

    def embedding_shape(
        self, config: Config, max_tokens: int, options: ModelOptions
    ) -> tuple[int, int]:
        """As `Architecture.embedding_shape`; CLIP's tokens come first, then T5's."""
        return max_tokens + options.max_sequence_length, int(config["joint_attention_dim"])

    def pooled_size(self, config: Config) -> int:
        """As `Architecture.pooled_size`."""
        return int(config["pooled_projection_dim"])

    def encode(
        self,
        encoders: Sequence[TextEncoder],
        prompts: Sequence[str],
        shape: tuple[int, int],
        clip_skip: int = 0,
    ) -> PromptEmbedding:
        """As `Architecture.encode`; a missing T5 leaves zeros in its place."""
        length = encoders[0].max_tokens
        pairs = [
            penultimate_states(encoder, prompts, length, clip_skip=clip_skip)
            for encoder in encoders[:2]
        ]
        clip = torch.cat([states for states, _ in pairs], dim=-1)
        clip = F.pad(clip, (0, shape[1] - clip.shape[-1]))
        tokens = shape[0] - length
        if len(encoders) == 3:
            t5 = t5_states(encoders[2], prompts, tokens)
        else:
            t5 = zero_states(len(prompts), tokens, shape[1], clip.device)
        pooled = torch.cat([pooled for _, pooled in pairs], dim=-1)
        return PromptEmbedding(torch.cat([clip, t5], dim=-2), pooled)

    def context_lengths(
        self, encoders: Sequence[TextEncoder], shape: tuple[int, int]
    ) -> tuple[int, ...]:
        """As `Architecture.context_lengths`; both CLIPs read as much as the first."""
        length = encoders[0].max_tokens
        return (length, length, shape[0] - length)[: len(encoders)]

    def wrap(self, network: nn.Module, image_size: tuple[int, int]) -> Denoiser:
        """As `Architecture.wrap`."""
        del image_size
        return Denoiser3(network)

    def patch_size(self, config: Config) -> int:
        """As `Architecture.patch_size`."""
        return int(config["patch_size"])

    def largest_latent(self, config: Config) -> float:
        """As `Architecture.largest_latent`: it has positions for no more."""
        return int(config["pos_embed_max_size"]) * int(config["patch_size"])

    def problems(self, config: Config, encoders: Sequence[TextEncoder]) -> Iterator[str]:
        """As `Architecture.problems`."""
        width = config.get("joint_attention_dim")
        clips = [encoder.network.config for encoder in encoders[:2]]
        if width is None or sum(clip.hidden_size for clip in clips) > width:
            yield (
                "expected a denoiser that reads prompt embeddings at least as wide as both CLIPs' "
                f"together, {sum(clip.hidden_size for clip in clips)}, got "
                f"joint_attention_dim={width}"
            )
        pooled = sum(clip.projection_dim for clip in clips)
        if config.get("pooled_projection_dim") != pooled:
            yield (
                f"expected a denoiser that reads both CLIPs' pooled embeddings, {pooled} numbers, "
                f"got pooled_projection_dim={config.get('pooled_projection_dim')}"
            )
        if len(encoders) == 3 and encoders[2].network.config.d_model != width:
            yield (
                f"expected a text_encoder_3 of the denoiser's joint_attention_dim={width}, got "
                f"d_model={encoders[2].network.config.d_model}"
            )
        for number, encoder in enumerate(encoders[:2], start=1):
            if not pooled_position_is_right(encoder):
                yield (
                    f"expected CLIP number {number} to pool at its tokenizer's end token "
                    f"{encoder.tokenizer.eos_token_id}, got "
                    f"eos_token_id={encoder.network.config.eos_token_id}"
                )
