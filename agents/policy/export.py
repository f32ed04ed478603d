"""Trained weights in diffusers' own formats."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agents.files import atomic
from agents.policy.lora import ADAPTER
from agents.policy.unet_policy import UNetPolicy
from diffusion_gym.errors import DiffusionGymError
from diffusion_gym.models.denoiser import Denoiser, Denoiser3, DenoiserXL

PARTS: dict[type[Denoiser], str] = {
    Denoiser: "unet",
    DenoiserXL: "unet",
    Denoiser3: "transformer",
}
"""The name of a denoiser's network in its pipeline."""

LORA_FILE = "pytorch_lora_weights.safetensors"


class ExportError(DiffusionGymError, RuntimeError):
    """What diffusers reads from an export is not what was trained."""


def export(policy: UNetPolicy, folder: Path | str) -> Path:
    """Writes what was trained, in float32, and reads it again as its users will.

    The same weights make the same bytes. What was in the folder before stays unless the new files
    read back as what was trained.

    Args:
        policy: The policy.
        folder: Replaced where it exists.

    Returns:
        For LoRA, the folder for ``load_lora_weights`` of the model's pipeline; else a folder for
        ``from_pretrained`` of the denoiser's class.

    Raises:
        ExportError: The files read back as something else.
    """
    network = policy.denoiser.network
    with atomic(Path(folder)) as partial:
        if policy.lora is None:
            network.save_pretrained(partial)
            _check(network.state_dict(), _tensors_in(partial))
        else:
            partial.mkdir(parents=True)
            _save_adapters(policy.denoiser, partial / LORA_FILE)
            loaded = _load_adapters(policy.denoiser, partial)
            _check(_adapters(network), _adapters(loaded).items())
    return Path(folder)


def _save_adapters(denoiser: Denoiser, file: Path) -> None:
    """Writes the adapters under peft's names: diffusers reads those for every layer and network.

    Its own older names exist for the layers of the attention alone, and a file must not mix them.
    """
    part = PARTS[type(denoiser)]
    config = denoiser.network.peft_config[ADAPTER]
    # Only what these adapters are made of, so that every version of peft knows every entry.
    settings = {
        f"{part}.r": config.r,
        f"{part}.lora_alpha": config.lora_alpha,
        f"{part}.target_modules": sorted(config.target_modules),
        f"{part}.rank_pattern": {},  # diffusers below 0.39 looks for it
    }
    adapters = get_peft_model_state_dict(denoiser.network, adapter_name=ADAPTER)
    save_file(
        {f"{part}.{name}": tensor.contiguous() for name, tensor in adapters.items()},
        file,
        # One entry only: safetensors writes several in an order that changes from run to run.
        metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True)},
    )


def _load_adapters(denoiser: Denoiser, folder: Path) -> nn.Module:
    """A network of the same kind with the adapters that diffusers loads.

    Its own weights are memory that nobody has written to, which costs next to nothing.
    """
    with torch.device("meta"):
        network = type(denoiser.network).from_config(denoiser.network.config)
    network.to_empty(device="cpu").load_lora_adapter(
        folder,
        weight_name=LORA_FILE,
        prefix=PARTS[type(denoiser)],
        adapter_name=ADAPTER,
        use_safetensors=True,
    )
    assert isinstance(network, nn.Module)
    return network


def _tensors_in(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of every weight file of a folder, one at a time: together they may be large."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name)


def _adapters(network: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors, and what each layer multiplies its update by."""
    scales = {
        f"{name}.scale": torch.tensor(layer.scaling[ADAPTER])
        for name, layer in network.named_modules()
        if isinstance(layer, LoraLayer)
    }
    tensors: dict[str, Tensor] = get_peft_model_state_dict(network, adapter_name=ADAPTER)
    return tensors | scales


def _check(trained: dict[str, Tensor], loaded: Iterable[tuple[str, Tensor]]) -> None:
    """Compares what diffusers loads with what was trained."""
    equal = {
        name
        for name, tensor in loaded
        if name in trained and torch.equal(tensor, trained[name].to(tensor))
    }
    wrong = sorted(trained.keys() - equal)
    if wrong:
        raise ExportError(
            f"expected diffusers to load the {len(trained)} tensors that were trained; it loads "
            f"{len(equal)}, without {', '.join(wrong[:4])}{', …' if len(wrong) > 4 else ''}"
        )
