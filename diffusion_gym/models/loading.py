"""From a model's name to a loaded model."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.models import hub
from diffusion_gym.models.architectures import Architecture
from diffusion_gym.models.checkpoint import Checkpoint, FolderCheckpoint
from diffusion_gym.models.embedded import (
    EMBEDDED_DEFAULTS,
    EMOJI64,
    OTHER_DEFAULTS,
    ModelDefaults,
    model_names,
)
from diffusion_gym.models.model import DiffusionModel
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.precision import resolve_dtype
from diffusion_gym.models.single_file import SingleFileCheckpoint

KINDS_OF_NAMES = ("a diffusers folder", "a .safetensors file", "a hub id")


def load_model(
    name: str | os.PathLike[str] = EMOJI64,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    **options: Any,
) -> DiffusionModel:
    """Loads a text-to-image model.

    Args:
        name: An embedded model's name, a folder in diffusers' format, a single-file checkpoint
            (.safetensors), or an id on the model hub.
        device: ``"auto"``, or a torch device such as ``"cpu"`` or ``"cuda:1"``.
        dtype: Precision of the frozen networks: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        **options: See `ModelOptions`.

    Returns:
        The model. Its frozen networks are shared with every other model of the same checkpoint,
        device and precision in this process.

    Raises:
        InvalidInputError: Unknown name, device, dtype or option.
        ModelLoadError: The weights are missing, damaged or of an unsupported kind.
    """
    chosen = ModelOptions.parse(options)
    precision = resolve_dtype(dtype)
    name = os.fspath(name)
    checkpoint = find_checkpoint(name, chosen)
    defaults = _defaults(name, checkpoint.architecture)
    if not checkpoint.architecture.optional_parts:
        chosen.refuse(("t5", "max_sequence_length"), "for models with a T5 text encoder")
    return DiffusionModel(name, checkpoint, resolve_device(device), precision, chosen, defaults)


def resolve_device(device: str) -> torch.device:
    """Turns a device's name into a device that is there.

    Raises:
        InvalidInputError: The name means nothing to torch, or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InvalidInputError(
            f"device {device!r} cannot be used here ({reason}); expected 'auto', 'cpu', or a "
            f"device that this machine has ({torch.cuda.device_count()} CUDA devices found)"
        ) from error
    return resolved


def find_checkpoint(name: str, options: ModelOptions) -> Checkpoint:
    """Finds the checkpoint behind a name, downloading it where the name is a hub id.

    Raises:
        InvalidInputError: The name is of no kind that is known, or an option does not fit it.
        ModelLoadError: The model is not on the hub, or cannot be had from there.
    """
    path = emoji64_folder() / "pipeline" if name == EMOJI64 else Path(name).expanduser()
    if path.is_file():
        return _single_file(path, options)
    options.refuse(("config",), "for single-file checkpoints")
    if path.is_dir():
        options.refuse(("revision",), "for models on the hub")
        return FolderCheckpoint(path, options.variant)
    local = path.is_absolute() or name.startswith((".", "~")) or name.endswith(".safetensors")
    if local or name.count("/") != 1:
        raise unknown_name("model", name, [*model_names(), *KINDS_OF_NAMES])
    return FolderCheckpoint(hub.download(name, options), options.variant)


def _single_file(file: Path, options: ModelOptions) -> Checkpoint:
    if file.suffix != ".safetensors":  # a pickled checkpoint could run code
        raise InvalidInputError(f"expected a single-file checkpoint in .safetensors, got {file}")
    options.refuse(("variant",), "for diffusers folders")
    options.refuse(("revision",), "for models on the hub")
    return SingleFileCheckpoint(file, hub.config_folder(file, options.config))


def _defaults(name: str, architecture: Architecture) -> ModelDefaults:
    if name in EMBEDDED_DEFAULTS:
        return EMBEDDED_DEFAULTS[name]
    return dataclasses.replace(OTHER_DEFAULTS, num_inference_steps=architecture.num_inference_steps)
