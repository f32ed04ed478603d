"""The networks of a diffusers folder, loaded one by one and shared where they are frozen."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import diffusers
import torch
import transformers
from torch import nn

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.models.consistency import check_consistency
from diffusion_gym.models.quiet import quiet_libraries
from diffusion_gym.scheduler_config import SUPPORTED_SCHEDULERS

SUPPORTED: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": SUPPORTED_SCHEDULERS,
}
"""Classes that each part of a checkpoint may have."""


@dataclass(frozen=True, eq=False)
class FrozenComponents:
    """Text encoder and autoencoder of one checkpoint on one device in one precision."""

    vae: Any
    text_encoder: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype

    @property
    def max_tokens(self) -> int:
        """Length L that every prompt is padded or cut to."""
        return int(self.tokenizer.model_max_length)

    @property
    def scaling_factor(self) -> float:
        """What latents are divided by before they are decoded."""
        return float(self.vae.config.scaling_factor)

    @property
    def shift_factor(self) -> float:
        """What is added to latents before they are decoded (0 for all but the newest models)."""
        return float(self.vae.config.get("shift_factor") or 0.0)

    @property
    def upscaling(self) -> int:
        """Pixels per latent cell and axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


_shared: WeakValueDictionary[tuple[Path, torch.device, torch.dtype], FrozenComponents]
_shared = WeakValueDictionary()


def load_frozen(folder: Path, device: torch.device, dtype: torch.dtype) -> FrozenComponents:
    """The frozen networks of a folder, loaded at most once per device and precision.

    The process-wide table holds them weakly: when the last model that uses them is closed or
    forgotten, their memory is free again.
    """
    key = (folder.resolve(), device, dtype)
    components = _shared.get(key)
    if components is None:
        components = FrozenComponents(
            vae=freeze(load_component(folder, "vae", dtype), device),
            text_encoder=freeze(load_component(folder, "text_encoder", dtype), device),
            tokenizer=load_component(folder, "tokenizer"),
            device=device,
            dtype=dtype,
        )
        check_consistency(folder, components, load_component(folder, "unet", config_only=True))
        _shared[key] = components
    return components


def load_component(
    folder: Path, part: str, dtype: torch.dtype | None = None, *, config_only: bool = False
) -> Any:
    """Loads one part of a diffusers folder, of the class that its ``model_index.json`` names.

    Args:
        folder: The checkpoint.
        part: ``"unet"``, ``"vae"``, ``"text_encoder"``, ``"tokenizer"`` or ``"scheduler"``.
        dtype: Precision of the weights, for networks.
        config_only: Return the part's configuration instead of the part.

    Raises:
        ModelLoadError: The part is missing, damaged, or of an unsupported class.
    """
    component_class = _component_class(folder, part)
    if not (folder / part).is_dir():  # the libraries would take its name for a hub id
        raise ModelLoadError(
            f"expected the {part} of the model in {folder / part}, found no such folder"
        )
    try:
        with quiet_libraries():
            if config_only:
                return dict(component_class.load_config(folder / part))
            if dtype is None:
                return component_class.from_pretrained(folder / part)
            network, loading = component_class.from_pretrained(
                folder / part,
                output_loading_info=True,
                use_safetensors=True,  # a pickled checkpoint could run code, and has no hash
                **_network_options(component_class, dtype),
            )
    except Exception as error:  # the libraries raise every kind of exception for a bad file
        raise ModelLoadError(
            f"cannot load the {part} of the model in {folder}: expected a complete "
            f"{component_class.__name__} in {folder / part}, got {type(error).__name__}: {error}"
        ) from error
    return _complete(network, loading, folder / part)


def _network_options(component_class: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What the two libraries call by different names.

    Of weights of a wrong shape diffusers' exception names the first; transformers only logs them,
    unless told to go on, and then lists them for `_complete`.
    """
    if issubclass(component_class, transformers.PreTrainedModel):
        return {"dtype": dtype, "ignore_mismatched_sizes": True}
    return {"torch_dtype": dtype}


def _complete(network: nn.Module, loading: dict[str, Any], folder: Path) -> nn.Module:
    """Refuses a network with missing weights: the libraries fill those with random numbers."""
    missing = sorted(loading["missing_keys"])
    misshapen = [
        f"{key} (expected {list(expected)}, got {list(got)})"
        for key, got, expected in sorted(loading["mismatched_keys"])
    ]
    if missing or misshapen:
        raise ModelLoadError(
            f"the weights in {folder} do not fit {type(network).__name__}: expected all of its "
            f"weights, got {len(missing)} missing and {len(misshapen)} of another shape, such as "
            f"{(missing + misshapen)[0]}"
        )
    return network


def _component_class(folder: Path, part: str) -> Any:
    index_file = folder / "model_index.json"
    try:
        index = json.loads(index_file.read_text())
        _, name = index[part]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"{folder} is no diffusers folder of a text-to-image model: expected "
            f"{index_file.name} naming a {part}, got {type(error).__name__}: {error}"
        ) from error
    supported = SUPPORTED[part]
    if name not in supported:
        raise ModelLoadError(
            f"the {part} of the model in {folder} is a {name}; supported: {', '.join(supported)}"
        )
    return getattr(transformers if part in ("text_encoder", "tokenizer") else diffusers, name)


def freeze(network: nn.Module, device: torch.device) -> nn.Module:
    """Moves a network to a device for inference.

    Convolutions run in the channels-last layout: on a CPU the embedded model's denoiser then
    takes less than half the time, and GPUs' tensor cores want it as well.
    """
    network.requires_grad_(False).eval()
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
