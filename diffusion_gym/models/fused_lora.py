"""LoRA weights of others, fused into the networks of a checkpoint."""

import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers.configuration_utils import FrozenDict
from safetensors import safe_open
from torch import Tensor, nn

from diffusion_gym.errors import ModelLoadError, one_line, shown
from diffusion_gym.models.added_files import find_added
from diffusion_gym.models.architectures import Architecture
from diffusion_gym.models.checkpoint import check_floating, file_digest

USUAL_NAME = "pytorch_lora_weights.safetensors"

Tensors = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class FusedLora:
    """LoRA weights, and how much of them is added to the weights of a model.

    Attributes:
        file: In any naming that diffusers' pipeline of the model loads.
        scale: Multiplies the update.
    """

    file: Path
    scale: float

    @classmethod
    def find(cls, name: str, scale: float, download: Callable[[str], Path]) -> "FusedLora":
        """Finds what the model option ``lora_weights`` names.

        Args:
            name: A file, a folder with one, or a hub id.
            scale: Multiplies the update.
            download: From a hub id to a folder.

        Raises:
            InvalidInputError: It names nothing that can be LoRA weights.
            ModelLoadError: They cannot be had from the hub, or are not there.
        """
        wanted = "a .safetensors file, a folder with one or a hub id"
        path = find_added("lora_weights", name, wanted, download)
        if path.is_file():
            return cls(path, scale)
        files = sorted(path.glob("*.safetensors"))
        usual = [file for file in files if file.name == USUAL_NAME]
        if len(usual or files) != 1:
            raise ModelLoadError(
                f"expected one .safetensors file of LoRA weights in {path}, or {USUAL_NAME}, got "
                f"{', '.join(file.name for file in files[:4]) or 'none'}; name the file itself"
            )
        return cls((usual or files)[0], scale)

    @property
    def key(self) -> Hashable:
        """The same for what gives the same networks."""
        return self.file.resolve(), self.scale

    @property
    def digests(self) -> list[bytes]:
        """What tells these weights from others."""
        return [file_digest(self.file), repr(self.scale).encode()]

    def fuse(
        self,
        network: nn.Module,
        part: str,
        architecture: Architecture,
        denoiser_config: Mapping[str, Any],
    ) -> None:
        """Adds the update to a network's weights, in place: W ← W + scale · α/r · B A.

        Args:
            network: The denoiser, or a text encoder.
            part: Its name in the pipeline.
            architecture: The kind of model.
            denoiser_config: The denoiser's configuration, by which blocks of kohya's names are
                found.

        Raises:
            ModelLoadError: The file is no LoRA of such a model, or not all of it fits.
        """
        try:
            tensors, alphas, settings = self._read(architecture, denoiser_config)
            self._check_parts(tensors, architecture)
            own = _of_part(part, tensors)
            if not own:
                return
            _apply_alphas(own, _of_part(part, alphas))
            updates = _updates(own, is_denoiser=part == architecture.denoiser_part)
            factors = _factors(updates, _of_part(part, settings))
            for layer, (down, up) in updates.items():
                _add(network, layer, (self.scale * factors[layer]) * up @ down)
        except ModelLoadError:
            raise
        except Exception as error:  # diffusers raises every kind of exception for a bad file
            raise ModelLoadError(
                f"the LoRA weights in {self.file} do not fit the {part} of the model: expected "
                f"LoRA of a {architecture.pipeline}, got {type(error).__name__}: "
                f"{one_line(str(error))}"
            ) from error

    def _read(
        self, architecture: Architecture, denoiser_config: Mapping[str, Any]
    ) -> tuple[Tensors, dict[str, float], dict[str, Any]]:
        """The tensors, kohya's alphas and peft's settings, by their parts and layers."""
        check_floating(self.file)
        with safe_open(self.file, framework="pt") as tensors:
            left_out = [name for name in tensors.keys() if "dora_scale" in name]
        if left_out:  # by diffusers, with a warning
            raise ModelLoadError(
                f"the LoRA weights in {self.file} are DoRA, with {left_out[0]}: expected LoRA"
            )
        loader = getattr(diffusers, architecture.pipeline)
        read, *alphas, settings = loader.lora_state_dict(
            str(self.file.parent),
            weight_name=self.file.name,
            return_lora_metadata=True,
            use_safetensors=True,
            local_files_only=True,
            unet_config=FrozenDict(denoiser_config),
        )
        return read, (alphas[0] if alphas else None) or {}, settings or {}

    def _check_parts(self, tensors: Tensors, architecture: Architecture) -> None:
        """Refuses what no part of the model would load: diffusers would only warn."""
        texts = set(architecture.text_encoder_parts) - set(architecture.optional_parts)
        known = (architecture.denoiser_part, *sorted(texts))
        others = [
            name for name in tensors if name.partition(".")[0] not in known or "lora" not in name
        ]
        if others or not tensors:
            raise ModelLoadError(
                f"the LoRA weights in {self.file} are not of this model: expected LoRA of a "
                f"{architecture.pipeline}'s {', '.join(known)}, got "
                f"{shown(others[0]) if others else 'an empty file'}"
            )


def _of_part(part: str, values: Mapping[str, T]) -> dict[str, T]:
    prefix = f"{part}."
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


def _apply_alphas(tensors: Tensors, alphas: Mapping[str, float]) -> None:
    """Multiplies kohya's tensors by α/r, which diffusers keeps beside them."""
    left = dict(alphas)
    for name, down in tensors.items():
        for layer in (name, name.split(".lora.")[0]):
            if ".down." in name and (alpha := left.pop(f"{layer}.alpha", None)) is not None:
                tensors[name] = down.float() * (alpha / len(down))
    if left:
        raise ValueError(f"alphas without tensors, such as {next(iter(left))}")


_PEFT = re.compile(r"(?P<layer>.+)\.lora_(?P<kind>A|B)\.weight")
_DIFFUSERS = re.compile(
    r"(?P<layer>.+?)\.(?:to_(?P<old>q|k|v|out)_lora|lora|lora_linear_layer)"
    r"\.(?P<kind>down|up)\.weight"
)
"""Both namings, the latter with that of diffusers' first versions."""


def _updates(tensors: Tensors, is_denoiser: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """A ``[r, in]`` and B ``[out, r]`` of every layer, convolutions flattened, float32."""
    found: dict[str, dict[bool, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _PEFT.fullmatch(name) or _DIFFUSERS.fullmatch(name)
        if match is None:
            raise ValueError(f"{name}, which is neither A nor B of a layer's LoRA")
        layer = match["layer"].replace(".processor", "")
        if old := match.groupdict().get("old"):
            layer += f".{old}_proj" if not is_denoiser else f".to_{old}"
            layer += ".0" if is_denoiser and old == "out" else ""
        found.setdefault(layer, {})[match["kind"] in ("A", "down")] = tensor.float().flatten(1)
    for layer, pair in found.items():
        if len(pair) != 2:
            raise ValueError(f"{layer} with one of A and B alone")
    return {layer: (pair[True], pair[False]) for layer, pair in found.items()}


def _factors(
    updates: Mapping[str, tuple[Tensor, Tensor]], settings: Mapping[str, Any]
) -> dict[str, float]:
    """α/r of every layer as peft's settings have it, 1 without any."""
    if settings.get("use_dora"):
        raise ValueError("DoRA")
    factors = {}
    for layer, (down, _) in updates.items():
        rank = len(down)
        patterns = settings.get("alpha_pattern") or {}
        # As peft finds the pattern of a layer.
        key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", layer)), None)
        alpha = patterns[key] if key is not None else settings.get("lora_alpha", rank)
        factors[layer] = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return factors


@torch.no_grad()
def _add(network: nn.Module, layer: str, update: Tensor) -> None:
    """Adds ``[out, in]`` to a layer's weight; text encoders of older files have one name more."""
    if layer.startswith("text_model.") and not hasattr(network, "text_model"):
        layer = layer.removeprefix("text_model.")
    module = network.get_submodule(layer)
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise TypeError(f"{layer}, which is a {type(module).__name__}")
    weight = module.weight
    if weight.flatten(1).shape != update.shape:
        raise ValueError(
            f"an update of {list(update.shape)} for {layer}, whose weight is {list(weight.shape)}"
        )
    weight.copy_(weight.float() + update.to(weight.device).view_as(weight))
