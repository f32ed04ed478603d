"""Trained weights in diffusers' own formats."""

import shutil
from pathlib import Path
from typing import Any

from diffusers import (
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict

from agents.policy.unet_policy import UNetPolicy
from diffusion_gym.models.denoiser import Denoiser, Denoiser3, DenoiserXL

PIPELINES: dict[type[Denoiser], tuple[Any, str]] = {
    Denoiser: (StableDiffusionPipeline, "unet"),
    DenoiserXL: (StableDiffusionXLPipeline, "unet"),
    Denoiser3: (StableDiffusion3Pipeline, "transformer"),
}
"""The pipeline that reads a denoiser's adapters, and the denoiser's name in it."""


def export(policy: UNetPolicy, folder: Path) -> Path:
    """Writes what was trained, in float32, under a temporary name first.

    Args:
        policy: The policy.
        folder: Replaced where it exists.

    Returns:
        For LoRA, the folder for ``load_lora_weights`` of the model's pipeline; else a folder for
        ``from_pretrained`` of the denoiser's class.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if policy.lora is None:
        policy.denoiser.network.save_pretrained(partial)
    else:
        _save_adapters(policy.denoiser, partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return folder


def _save_adapters(denoiser: Denoiser, folder: Path) -> None:
    pipeline, part = PIPELINES[type(denoiser)]
    adapters = get_peft_model_state_dict(denoiser.network)
    if part == "unet":  # the transformer's loader reads peft's own names only
        adapters = convert_state_dict_to_diffusers(adapters)
    metadata = denoiser.network.peft_config["default"].to_dict()  # keeps alpha
    options = {f"{part}_lora_layers": adapters, f"{part}_lora_adapter_metadata": metadata}
    pipeline.save_lora_weights(folder, **options)
