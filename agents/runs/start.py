"""Weights that a run begins with instead of the model's own: those that another run has trained."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import SafetensorError, safe_open
from torch import Tensor

from agents.common.checkpoint_folder import SUMS, latest_checkpoint, read_checkpoint
from agents.policy import UNetPolicy
from agents.policy.config import PolicyConfig
from agents.policy.export import LORA_FILE
from agents.policy.lora import ADAPTER, LoraSettings
from agents.runs.run_folder import RunFolder
from diffusion_gym.errors import InvalidInputError, first_line, one_line
from diffusion_gym.parsing import as_path

NETWORK = "denoiser.network."
"""What the names of a policy's parameters begin with."""

ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, SafetensorError)


class Start(NamedTuple):
    """Trained weights and what they belong to.

    Attributes:
        place: Where they are.
        weights: By the names of a policy's parameters.
        lora: The adapters that they are; None for all weights.
        model: Name and hash of the model that they were trained on; an export does not say it.
    """

    place: Path
    weights: Mapping[str, Tensor]
    lora: LoraSettings | None
    model: tuple[str, str] | None

    @property
    def sha256(self) -> str:
        """Of names and weights, as hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """What a run that begins with them has to be told of its model and of what trains."""
        lora = self.lora
        own: dict[str, Any] = {"lora_rank": 0 if lora is None else lora.rank}
        if lora is not None:
            own |= {"lora_alpha": lora.alpha, "lora_targets": lora.targets}
        return own if self.model is None else own | {"model": self.model[0]}


def read_start(text: str) -> Start:
    """Reads trained weights; nothing of a run folder but its weights is looked at.

    Args:
        text: A run folder, whose newest checkpoint is taken; a checkpoint; or an ``exported``
            folder.

    Raises:
        InvalidInputError: There are no such weights, or they are damaged.
    """
    path = as_path("from", text).absolute()
    checkpoints = RunFolder(path).checkpoints
    if checkpoints.is_dir():
        return _of_checkpoint(latest_checkpoint(checkpoints))
    if (path / SUMS).exists():
        return _of_checkpoint(path)
    return _of_export(path)


def begin_with(policy: UNetPolicy, start: Start, weights_hash: str) -> dict[str, Tensor]:
    """The weights for a policy, checked.

    Args:
        policy: What is to train.
        start: The weights.
        weights_hash: Of the policy's model.

    Raises:
        InvalidInputError: They are of another model or network, or other adapters.
    """
    where = f"the weights in {one_line(str(start.place))}"
    if start.model is not None and start.model[1] != weights_hash:
        name, trained_on = start.model
        raise InvalidInputError(
            f"{where} were trained on the model {name!r} with the weights {trained_on[:16]}…: "
            f"expected to train the same one, got {policy.model.name!r} with {weights_hash[:16]}…"
        )
    theirs, ours = _adapters(start.lora), _adapters(policy.lora)
    if theirs != ours:
        raise InvalidInputError(f"{where} are {theirs}: expected to train such, got {ours}")
    own = policy.state_dict()
    wrong = sorted(own.keys() - start.weights.keys()) or [
        *(n for n in start.weights if n not in own and policy.lora is not None),
        *(n for n, value in own.items() if value.shape != start.weights[n].shape),
    ]
    if wrong:
        raise InvalidInputError(
            f"{where} do not fit the {len(own)} tensors that train: {len(start.weights)}, of which "
            f"these differ in name or shape: {', '.join(wrong[:4])}"
        )
    return {name: start.weights[name].to(value.dtype) for name, value in own.items()}


def _adapters(lora: LoraSettings | None) -> str:
    if lora is None:
        return "all weights of a network (lora_rank=0)"
    alpha = lora.rank if lora.alpha is None else lora.alpha
    return f"LoRA adapters of rank {lora.rank} and alpha {alpha:g}"


def _of_checkpoint(folder: Path) -> Start:
    checkpoint = read_checkpoint(folder, weights_only=True)
    try:
        spec, arguments = checkpoint.agent["model_spec"], checkpoint.agent["arguments"]
        lora = LoraSettings.of(PolicyConfig.from_options(arguments["policy_kwargs"] or {}))
        return Start(folder, checkpoint.weights, lora, (spec["name"], spec["weights_hash"]))
    except ERRORS as error:
        raise _unreadable(folder, error) from error


def _of_export(folder: Path) -> Start:
    """Reads what `agents.policy.export` wrote."""
    adapters = folder / LORA_FILE
    try:
        if adapters.is_file():
            return _of_adapters(adapters)
        weights: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                weights |= {NETWORK + n: tensors.get_tensor(n) for n in tensors.keys()}
    except ERRORS as error:
        raise _unreadable(folder, error) from error
    if not weights:
        raise InvalidInputError(
            "expected a run folder, a checkpoint or an exported folder with trained weights, got "
            f"{one_line(str(folder))}, which has none"
        )
    return Start(folder, weights, None, None)


def _of_adapters(file: Path) -> Start:
    with safe_open(file, framework="pt") as tensors:
        settings = json.loads(tensors.metadata()[LORA_ADAPTER_METADATA_KEY])
        part = next(iter(settings)).partition(".")[0]
        weights = {
            _peft_name(name.removeprefix(f"{part}.")): tensors.get_tensor(name)
            for name in tensors.keys()
        }
    lora = LoraSettings(
        PolicyConfig(lora_rank=settings[f"{part}.r"]).lora_rank,
        PolicyConfig(lora_alpha=settings[f"{part}.lora_alpha"]).lora_alpha,
        PolicyConfig(lora_targets=settings[f"{part}.target_modules"]).lora_targets,
    )
    return Start(file.parent, weights, lora, None)


def _peft_name(name: str) -> str:
    """The name of an adapter's parameter in a policy, of that in a file."""
    layer, _, weight = name.rpartition(".")
    return f"{NETWORK}{layer}.{ADAPTER}.{weight}"


def _unreadable(folder: Path, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"expected trained weights in {one_line(str(folder))}, got {type(error).__name__}: "
        f"{first_line(error)}"
    )
