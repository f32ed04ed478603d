"""Stable Diffusion 1.x and 2.x (arXiv 2112.10752), and the embedded model."""

from collections.abc import Iterator, Sequence

from diffusion_gym.models.architectures.base import (
    AUTOENCODERS,
    CLIP_TOKENIZERS,
    Architecture,
    Config,
)
from diffusion_gym.models.embedding import PromptEmbedding
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.text_encoders import TextEncoder, last_states
from diffusion_gym.schedules.diffusers_config import DDIM_SCHEDULERS


class StableDiffusion(Architecture):
    """A UNet that attends to one CLIP's last hidden states."""

    pipeline = "StableDiffusionPipeline"
    parts = {  # noqa: RUF012 (a constant)
        "vae": AUTOENCODERS,
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": CLIP_TOKENIZERS,
        "unet": ("UNet2DConditionModel",),
        "scheduler": DDIM_SCHEDULERS,
    }

    def embedding_shape(
        self, config: Config, max_tokens: int, options: ModelOptions
    ) -> tuple[int, int]:
        """As `Architecture.embedding_shape`."""
        del options
        return max_tokens, int(config["cross_attention_dim"])

    def encode(
        self,
        encoders: Sequence[TextEncoder],
        prompts: Sequence[str],
        shape: tuple[int, int],
        clip_skip: int = 0,
    ) -> PromptEmbedding:
        """As `Architecture.encode`."""
        del shape
        return PromptEmbedding(last_states(encoders[0], prompts, clip_skip))

    def problems(self, config: Config, encoders: Sequence[TextEncoder]) -> Iterator[str]:
        """As `Architecture.problems`."""
        width = encoders[0].network.config.hidden_size
        if config.get("cross_attention_dim") != width:
            yield (
                f"expected a denoiser that reads prompt embeddings of the text_encoder's width "
                f"{width}, got cross_attention_dim={config.get('cross_attention_dim')}"
            )
        yield from unknown_conditions(
            config, ("addition_embed_type", "class_embed_type", "time_cond_proj_dim")
        )


def unknown_conditions(config: Config, options: Sequence[str]) -> Iterator[str]:
    """Names conditions of a UNet that nothing here provides, such as an image or a guidance."""
    for option in options:
        if config.get(option) is not None:
            yield (
                "expected a denoiser that is conditioned on timestep and prompt alone, got "
                f"{option}={config[option]!r}"
            )
