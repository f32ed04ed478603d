"""Finding, reading and naming the weights of reward models."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion_gym.checks import Count, checked
from diffusion_gym.errors import ModelLoadError, first_line
from diffusion_gym.parsing import as_path

SAMPLE = 1024
"""How many numbers of each tensor a hash looks at, at least, where there are as many."""


def check_batch_size(batch_size: int) -> int:
    """Returns how many images a network gets at once.

    Raises:
        InvalidInputError: It is not a positive whole number.
    """
    return int(checked("batch_size", batch_size, Count))


def find_file(
    reward: str, option: str | None, source: str, filename: str, *, whole_folder: bool = False
) -> Path:
    """Finds a file of weights, downloading it where its source is a repository on the model hub.

    Args:
        reward: Whose weights they are, for messages.
        option: The reward's option that names the source, for messages; None: it is no reward's.
        source: The file itself, a folder that holds it, or the id of a repository on the hub.
        filename: Its name in a folder or repository.
        whole_folder: The source cannot be the file itself: its neighbours are needed too.

    Raises:
        ModelLoadError: It is not there.
    """
    path = as_path(option or reward, source)
    if path.is_file() and not whole_folder:
        return path
    if (path / filename).is_file():
        return path / filename
    advice = "a folder that holds it" if whole_folder else "its path, or a folder that holds it,"
    advice = f"Give {advice}"
    if option is not None:
        advice = f'{advice} by reward_options={{"{reward}": {{"{option}": "/the/path"}}}}'
    if path.exists():
        reason = f"the folder has no {filename}" if path.is_dir() else "it is not a folder"
    elif not is_hub_id(source):
        reason = "there is no such file or folder"
    else:
        try:
            return _download(source, filename)
        except Exception as error:  # hub, network and disk errors are of many unrelated classes
            reason = (
                f"there is no such file or folder here, and https://huggingface.co/{source} "
                f"could not be had: {first_line(error).rstrip('.')}"
            )
    raise ModelLoadError(f"{reward} needs {filename}, looked for at {source!r}: {reason}. {advice}")


def _download(repository: str, filename: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, filename))


def is_hub_id(source: str) -> bool:
    """Tells whether a source that is no folder here can be a repository's id: ``owner/name``."""
    owner, slash, name = source.partition("/")
    return bool(owner and slash and name) and "/" not in name and owner not in (".", "..", "~")


def load_weights(reward: str, file: Path) -> dict[str, Tensor]:
    """Reads tensors by name from a ``.safetensors`` file, or from what ``torch.save`` wrote.

    Tensors under the key ``state_dict``, beside other things, are found too.

    Raises:
        ModelLoadError: The file is damaged or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(file)
            return tensors
        # weights_only: a checkpoint from the internet must not run code.
        weights = torch.load(file, map_location="cpu", weights_only=True)
        weights = weights.get("state_dict", weights)
        return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # damaged files raise errors of many unrelated classes
        raise ModelLoadError(
            f"{reward} cannot read weights from {file}: {first_line(error)}"
        ) from error


def fingerprint(weights: Mapping[str, Tensor], config: object = None) -> str:
    """Returns 12 hexadecimal digits that tell weights apart.

    They are of the tensors' names and shapes, and of `SAMPLE` numbers or more spread over each:
    reading all of a network of gigabytes would take longer than loading it.

    Args:
        weights: Tensors by name.
        config: What else decides the network's output, as JSON would hold it.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        numbers = tensor.reshape(-1)[:: max(1, tensor.numel() // SAMPLE)].contiguous()
        digest.update(numbers.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def model_version(fingerprint: str, dtype: str) -> str:
    """Returns the version of a reward that is decided by weights and their precision."""
    return f"1-{fingerprint}-{dtype}"
