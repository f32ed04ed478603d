"""Stable Diffusion of any size with random weights, saved as a checkpoint is."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.memory.networks import TOKENS, ModelSize
from diffusion_gym.emoji64 import emoji64_folder


def save_checkpoint_of(size: ModelSize, folder: Path, device: str) -> Path:
    """Speed and memory of these networks are real, their pictures are noise.

    The weights are saved in bfloat16: half the time to write and to read.
    """
    tokenizer = CLIPTokenizer.from_pretrained(emoji64_folder() / "pipeline" / "tokenizer")
    tokenizer.model_max_length = TOKENS
    text_config = CLIPTextConfig(**size.text_encoders[0])
    text_config.eos_token_id = tokenizer.eos_token_id
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        pipeline = StableDiffusionPipeline(
            vae=size.autoencoder(),
            text_encoder=CLIPTextModel(text_config),
            tokenizer=tokenizer,
            unet=size.denoiser().network,
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.to(torch.bfloat16).save_pretrained(folder)
    return folder
