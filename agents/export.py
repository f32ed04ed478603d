"""Trained weights in diffusers' own formats."""

import shutil
from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict

from agents.policy import UNetPolicy


def export(policy: UNetPolicy, folder: Path) -> Path:
    """Writes what was trained, under a temporary name first.

    Args:
        policy: The policy.
        folder: Replaced where it exists.

    Returns:
        For LoRA, the folder for ``StableDiffusionPipeline.load_lora_weights``; else a folder for
        ``UNet2DConditionModel.from_pretrained``.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    unet = policy.denoiser
    if policy.lora is None:
        assert isinstance(unet, UNet2DConditionModel)
        unet.save_pretrained(partial)
    else:
        StableDiffusionPipeline.save_lora_weights(
            partial,
            unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)),
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),  # keeps alpha
        )
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return folder
