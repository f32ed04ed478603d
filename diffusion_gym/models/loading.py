"""From a model's name to a loaded model."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError, first_line, shown, unknown_name
from diffusion_gym.models import hub
from diffusion_gym.models.architectures import Architecture
from diffusion_gym.models.checkpoint import Checkpoint, FolderCheckpoint
from diffusion_gym.models.composed import composed
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
from diffusion_gym.parsing import as_path

KINDS_OF_NAMES = ("a diffusers folder", "a .safetensors file", "a hub id")


def load_model(
    name: str | os.PathLike[str] = EMOJI64,
    *,
    device: str | torch.device = "cpu",
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
    name = _text(name)
    checkpoint = find_checkpoint(name, chosen)
    defaults = _defaults(name, checkpoint.architecture)
    checkpoint = composed(checkpoint, chosen)
    if not checkpoint.architecture.optional_parts:
        chosen.refuse(("t5", "max_sequence_length"), "for models with a T5 text encoder")
    return DiffusionModel(name, checkpoint, resolve_device(device), precision, chosen, defaults)


def model_defaults(
    name: str | os.PathLike[str] = EMOJI64, options: Mapping[str, Any] | None = None
) -> ModelDefaults:
    """What a model is used with where nothing else is said, without loading it.

    Only the small file that says which kind of model it is is read, or, of a hub id,
    downloaded; `load_model` has the same defaults.

    Args:
        name: As for `load_model`.
        options: Options of `load_model`, by name.

    Raises:
        InvalidInputError: Unknown name or option.
        ModelLoadError: There is no such model, or its kind is not supported.
    """
    chosen = dataclasses.replace(ModelOptions.parse(options or {}), variant=None)
    name = _text(name)
    return _defaults(name, find_checkpoint(name, chosen, hub.download_index).architecture)


def resolved_name(name: str | os.PathLike[str]) -> str:
    """A model's name that means the same from every working directory, now and later.

    Returns:
        The absolute path of a folder or file that is here; embedded models' names and hub ids
        as they are.

    Raises:
        InvalidInputError: The name is no text.
    """
    name = _text(name)
    if name == EMOJI64:
        return name
    path = as_path("model name", name)
    here = path.is_dir() or path.is_file()
    return os.path.abspath(path) if here else name  # no `resolve`: a link may be turned later


def resolve_device(device: str | torch.device) -> torch.device:
    """Turns a device's name into a device that is there.

    Raises:
        InvalidInputError: The name means nothing to torch, or the device is not there, or it
            holds no numbers ("meta").
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if not isinstance(device, str | torch.device):
            raise RuntimeError("not the name of a device")
        resolved = torch.device(device)
        if resolved.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).split(". ")[0]
        raise InvalidInputError(
            f"device {shown(device)} cannot be used here ({reason}); expected 'auto', 'cpu', or a "
            f"device that this machine has ({torch.cuda.device_count()} CUDA devices found)"
        ) from error
    return resolved


def find_checkpoint(
    name: str,
    options: ModelOptions,
    download: Callable[[str, ModelOptions], Path] = hub.download,
) -> Checkpoint:
    """Finds the checkpoint behind a name, downloading it where the name is a hub id.

    Args:
        name: The name.
        options: How it is to be loaded.
        download: What downloads it.

    Raises:
        InvalidInputError: The name is of no kind that is known, or an option does not fit it.
        ModelLoadError: The model is not on the hub, or cannot be had from there.
    """
    path = emoji64_folder() / "pipeline" if name == EMOJI64 else as_path("model name", name)
    if path.is_file():
        return _single_file(path, options)
    options.refuse(("config",), "for single-file checkpoints")
    if path.is_dir():
        options.refuse(("revision",), "for models on the hub")
        return FolderCheckpoint(path, options.variant)
    local = path.is_absolute() or name.startswith((".", "~")) or name.endswith(".safetensors")
    if local or name.count("/") != 1:
        raise unknown_name("model", name, [*model_names(), *KINDS_OF_NAMES])
    return FolderCheckpoint(download(name, options), options.variant)


def _single_file(file: Path, options: ModelOptions) -> Checkpoint:
    if file.suffix != ".safetensors":  # a pickled checkpoint could run code
        raise InvalidInputError(
            f"expected a single-file checkpoint in .safetensors, got {file}. A pickled one "
            "(.ckpt, .bin, .pt) can run code when it is opened; where you trust its source, "
            "convert it with diffusers: DiffusionPipeline's class for the model, such as "
            f"StableDiffusionPipeline.from_single_file({str(file)!r}).save_pretrained(folder), "
            "and name the folder"
        )
    options.refuse(("variant",), "for diffusers folders")
    options.refuse(("revision",), "for models on the hub")
    return SingleFileCheckpoint(file, hub.config_folder(file, options.config))


def _text(name: str | os.PathLike[str]) -> str:
    """A model's name as a text that can be a path.

    Raises:
        InvalidInputError: It is something else.
    """
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(text, str) or "\0" in text:
        raise InvalidInputError(
            "expected a model's name as a text (an embedded model, a folder, a .safetensors file "
            f"or a hub id), got {shown(name)}"
        )
    return text


def _defaults(name: str, architecture: Architecture) -> ModelDefaults:
    if name in EMBEDDED_DEFAULTS:
        return EMBEDDED_DEFAULTS[name]
    return dataclasses.replace(OTHER_DEFAULTS, num_inference_steps=architecture.num_inference_steps)
