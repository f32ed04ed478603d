"""Stable Diffusion of any size with random weights, saved as a checkpoint is."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.sized.networks import TOKENS, ModelSize
from diffusion_gym.emoji64 import emoji64_folder


def save_checkpoint_of(size: ModelSize, folder: Path, device: str) -> Path:
    """Speed and memory of these networks are real, their pictures are noise.

    The weights are made on the device, and saved in bfloat16: half the time to write and to read.
    Prompts are cut into tokens as the embedded model does it.
    """
    tokenizer = CLIPTokenizer.from_pretrained(emoji64_folder() / "pipeline" / "tokenizer")
    tokenizer.model_max_length = TOKENS
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        pipeline = _pipeline(size, tokenizer)
    pipeline.to(torch.bfloat16).save_pretrained(folder)
    return folder


def _pipeline(size: ModelSize, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    """The pipeline that has a denoiser of this kind."""
    denoiser, vae = size.denoiser().network, size.autoencoder()
    encoders = [_text_encoder(options, tokenizer) for options in size.text_encoders]
    if size.is_transformer:
        return StableDiffusion3Pipeline(
            transformer=denoiser,
            vae=vae,
            **_encoders(encoders, tokenizer),
            text_encoder_3=None,
            tokenizer_3=None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    networks = {"unet": denoiser, "vae": vae, "scheduler": scheduler}
    if len(encoders) == 2:
        return StableDiffusionXLPipeline(
            **networks, **_encoders(encoders, tokenizer), add_watermarker=False
        )
    return StableDiffusionPipeline(
        **networks,
        **_encoders(encoders, tokenizer),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text_encoder(options: Any, tokenizer: CLIPTokenizer) -> Any:
    config = CLIPTextConfig(**options)
    config.eos_token_id = tokenizer.eos_token_id
    with_projection = "projection_dim" in options
    return (CLIPTextModelWithProjection if with_projection else CLIPTextModel)(config)


def _encoders(encoders: list[Any], tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Text encoders and their tokenizers, by the names that pipelines have for them."""
    named: dict[str, Any] = {}
    for encoder, number in zip(encoders, ("", "_2"), strict=False):
        named[f"text_encoder{number}"] = encoder
        named[f"tokenizer{number}"] = tokenizer
    return named
