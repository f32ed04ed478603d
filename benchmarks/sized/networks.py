"""Networks of Stable Diffusion's sizes, with random weights or on no device at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffusion_gym.models.denoiser import Denoiser, Denoiser3, DenoiserXL
from diffusion_gym.models.embedding import PromptEmbedding

TOKENS = 77
"""Length of a prompt in tokens, CLIP's context."""


@dataclass(frozen=True)
class ModelSize:
    """A model as its checkpoint configures it; only what differs from diffusers' defaults.

    Attributes:
        name: What it is called.
        network: Arguments of `UNet2DConditionModel`, or of `SD3Transformer2DModel`.
        vae: Arguments of `AutoencoderKL`.
        text_encoders: Arguments of `CLIPTextConfig`, one mapping per encoder; one with a
            ``projection_dim`` gives the pooled embedding.
        pixels: Height and width of a picture; None: those that the network was made for.
    """

    name: str
    network: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: tuple[Mapping[str, Any], ...]
    pixels: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def is_transformer(self) -> bool:
        """Whether it is of Stable Diffusion 3's kind."""
        return "joint_attention_dim" in self.network

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        height, width = (side // self._upscaling for side in self.image_size)
        return self.network["in_channels"], height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a picture, in pixels."""
        side = self.network["sample_size"] * self._upscaling
        return self.pixels or (side, side)

    @property
    def _upscaling(self) -> int:
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    def denoiser(self) -> Denoiser:
        """A denoiser with random weights, frozen, in eval mode, on torch's default device."""
        if self.is_transformer:
            return Denoiser3(_frozen(SD3Transformer2DModel(**self.network)))
        unet = _frozen(UNet2DConditionModel(**self.network))
        if "addition_embed_type" in self.network:
            return DenoiserXL(unet, self.image_size)
        return Denoiser(unet)

    def autoencoder(self) -> Any:
        """The autoencoder, likewise."""
        return _frozen(AutoencoderKL(**self.vae))

    def encoders(self) -> list[nn.Module]:
        """The text encoders, likewise."""
        return [
            (CLIPTextModelWithProjection if "projection_dim" in options else CLIPTextModel)(
                CLIPTextConfig(**options)
            )
            for options in self.text_encoders
        ]

    def latents(self, rows: int) -> Tensor:
        """Noise, ``[rows, C, h, w]``."""
        return torch.randn(rows, *self.latent_shape)

    def embedding(self, rows: int) -> PromptEmbedding:
        """Random prompt embeddings."""
        attention = "joint_attention_dim" if self.is_transformer else "cross_attention_dim"
        width = self.network[attention]
        pooled = sum(options.get("projection_dim", 0) for options in self.text_encoders)
        return PromptEmbedding(
            torch.randn(rows, TOKENS, width), torch.randn(rows, pooled) if pooled else None
        )


def _frozen(network: Any) -> Any:
    return network.eval().requires_grad_(False)


_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}

SD15 = ModelSize(
    name="SD 1.5",
    network=MappingProxyType(
        {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        }
    ),
    vae=MappingProxyType(_VAE),
    text_encoders=(MappingProxyType(_CLIP_L),),
)
"""Stable Diffusion 1.5: 860 M parameters in its denoiser, pictures of 512 x 512."""

SDXL = ModelSize(
    name="SDXL",
    network=MappingProxyType(
        {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    ),
    vae=MappingProxyType(_VAE),
    text_encoders=(MappingProxyType(_CLIP_L), MappingProxyType(_CLIP_BIG_G)),
)
"""Stable Diffusion XL 1.0 (base): 2,567 M parameters in its denoiser, pictures of 1024 x 1024."""

SD3 = ModelSize(
    name="SD3",
    network=MappingProxyType(
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        }
    ),
    vae=MappingProxyType(
        {
            **_VAE,
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        }
    ),
    text_encoders=(
        MappingProxyType({**_CLIP_L, "projection_dim": 768}),
        MappingProxyType(_CLIP_BIG_G),
    ),
)
"""Stable Diffusion 3 medium, without its T5: 2,028 M parameters, pictures of 1024 x 1024."""

SMALL = ModelSize(
    name="small",
    network=MappingProxyType(
        {
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "attention_head_dim": 8,
        }
    ),
    vae=MappingProxyType(
        {
            **_VAE,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (32, 32),
            "layers_per_block": 1,
        }
    ),
    text_encoders=(
        MappingProxyType(
            {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            }
        ),
    ),
)
"""The architecture of Stable Diffusion 1.5 in small, to try things with."""

SMALL_XL = ModelSize(
    name="small XL",
    network=MappingProxyType(
        {
            **SDXL.network,
            "sample_size": 16,
            "block_out_channels": (32, 32, 64),
            "layers_per_block": 1,
            "transformer_layers_per_block": 1,
            "cross_attention_dim": 64,
            "attention_head_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 256 + 24,
        }
    ),
    vae=SMALL.vae,
    text_encoders=(
        *SMALL.text_encoders,
        MappingProxyType({**SMALL.text_encoders[0], "projection_dim": 24}),
    ),
)
"""That of Stable Diffusion XL."""

SMALL_3 = ModelSize(
    name="small 3",
    network=MappingProxyType(
        {
            **SD3.network,
            "sample_size": 16,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_projection_dim": 16,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 16 + 24,
            "pos_embed_max_size": 16,
        }
    ),
    vae=MappingProxyType(
        {
            **SMALL.vae,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        }
    ),
    text_encoders=(
        MappingProxyType({**SMALL.text_encoders[0], "projection_dim": 16}),
        MappingProxyType({**SMALL.text_encoders[0], "projection_dim": 24}),
    ),
)
"""That of Stable Diffusion 3."""

SIZES = {size.name: size for size in (SD15, SDXL)}
