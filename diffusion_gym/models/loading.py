"""From a model's name to a loaded model."""

import os
from pathlib import Path

import diffusers
import torch

from diffusion_gym.errors import InvalidInputError, ModelLoadError, unknown_name
from diffusion_gym.models.components import load_frozen
from diffusion_gym.models.embedded import (
    EMBEDDED_DEFAULTS,
    EMOJI64,
    OTHER_DEFAULTS,
    emoji64_folder,
    model_names,
)
from diffusion_gym.models.model import DiffusionModel
from diffusion_gym.models.quiet import quiet_libraries

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    name: str | os.PathLike[str] = EMOJI64, *, device: str = "cpu", dtype: str = "float32"
) -> DiffusionModel:
    """Loads a text-to-image model.

    Args:
        name: An embedded model's name, a folder in diffusers' format, or an id on the model hub.
        device: ``"auto"``, or a torch device such as ``"cpu"`` or ``"cuda:1"``.
        dtype: Precision of the frozen networks: ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Returns:
        The model. Its frozen networks are shared with every other model of the same folder,
        device and precision in this process.

    Raises:
        InvalidInputError: Unknown name, device or dtype.
        ModelLoadError: The weights are missing, damaged or of an unsupported kind.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    name = os.fspath(name)
    folder = resolve_folder(name)
    frozen = load_frozen(folder, resolve_device(device), DTYPES[dtype])
    return DiffusionModel(name, folder, frozen, EMBEDDED_DEFAULTS.get(name, OTHER_DEFAULTS))


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


def resolve_folder(name: str) -> Path:
    """Finds the diffusers folder behind a name, downloading it where the name is a hub id."""
    if name == EMOJI64:
        return emoji64_folder() / "pipeline"
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise unknown_name("model", name, [*model_names(), "a diffusers folder", "a hub id"])
    try:
        with quiet_libraries():
            return Path(diffusers.DiffusionPipeline.download(name, use_safetensors=True))
    except Exception as error:  # hub, network and format errors are of many unrelated classes
        reason = str(error).strip().splitlines()[0]
        raise ModelLoadError(
            f"model {name!r} is neither an embedded model ({', '.join(model_names())}) nor a "
            f"folder here, and it could not be had from the model hub: {reason}"
        ) from error
