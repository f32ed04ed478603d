"""The folder of a checkpoint: which files it has, and how they are written, read and checked.

::

    state.json             what is no tensor: arguments, counters, states of random generators
    state.safetensors      the tensors among the states: latents, torch's generators
    weights.safetensors    the policy's trained parameters
    optimizer.safetensors  the optimiser's tensors
    rank-00001.json, …     where several processes train: what each but the first has of its own,
    rank-00001.safetensors   states of its random generators and of its part of the environment
    SHA256SUMS             of all these, as ``sha256sum --check`` reads it

Nothing in them is code: who opens another's checkpoint runs nothing of it.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.common.trees import flatten, unflatten
from agents.files import atomic, discard
from diffusion_gym.errors import InvalidInputError, one_line

FORMAT = 1
STATE, TENSORS = "state.json", "state.safetensors"
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
SUMS = "SHA256SUMS"
FILES = (STATE, TENSORS, WEIGHTS, OPTIMIZER)

_RANKED = re.compile(r"rank-[0-9]{5}\.(json|safetensors)")
_NAME = re.compile(r"round-([0-9]{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        agent: What is needed to build the agent again: names of classes, arguments, model.
        weights: The policy's trained parameters by name.
        optimizer: The optimiser's state dictionary.
        state: Everything else that changes in training, by name.
        others: Where several processes train: of the state, what each process but the first has of
            its own, in their order.
    """

    agent: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]
    others: tuple[dict[str, Any], ...] = ()


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint; whatever interrupts it, ``folder`` is complete or was not touched.

    Args:
        checkpoint: What it shall hold.
        folder: The folder; its parent is made where needed.

    Raises:
        InvalidInputError: Something in it is neither a plain value nor a tensor.
    """
    agent, none = flatten(checkpoint.agent)
    assert not none
    state, tensors = flatten(checkpoint.state)
    optimizer, moments = flatten(checkpoint.optimizer)
    content = {"format": FORMAT, "agent": agent, "state": state, "optimizer": optimizer}
    plain = {STATE: content}
    _, weights = flatten(checkpoint.weights)
    named = {TENSORS: tensors, WEIGHTS: weights, OPTIMIZER: moments}
    for rank, own in enumerate(checkpoint.others, start=1):
        text_name, tensors_name = _rank_files(rank)
        plain[text_name], named[tensors_name] = flatten(own)
    texts = {name: json.dumps(values, allow_nan=False) for name, values in plain.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic(folder) as partial:
        partial.mkdir()
        for name, text in texts.items():
            (partial / name).write_text(text + "\n", encoding="utf-8")
        for name, values in named.items():
            save_file(values, partial / name)
        sums = (f"{_sha256(partial / name)}  {name}\n" for name in files(len(checkpoint.others)))
        (partial / SUMS).write_text("".join(sums))


def read_checkpoint(folder: Path, *, weights_only: bool = False) -> Checkpoint:
    """Reads a checkpoint, and checks that it is whole.

    Args:
        folder: The folder.
        weights_only: Leave out what only training needs, which is then empty.

    Raises:
        InvalidInputError: It is no checkpoint, damaged, or of another version.
    """
    try:
        others = _checked_sums(folder, (STATE, WEIGHTS) if weights_only else None)
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
        weights = _tensors(folder / WEIGHTS)
        if not weights_only:
            tensors, moments = _tensors(folder / TENSORS), _tensors(folder / OPTIMIZER)
            ranked = [
                (json.loads((folder / text).read_text(encoding="utf-8")), _tensors(folder / name))
                for text, name in map(_rank_files, range(1, others + 1))
            ]
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        version = content.get("format") if isinstance(content, dict) else None
        raise InvalidInputError(
            f"expected a checkpoint of format {FORMAT} in {folder}, got format {version!r}; it was "
            "written by another version of this software"
        )
    try:
        agent = unflatten(_part(content, "agent"), {})
        if weights_only:
            return Checkpoint(agent, weights, {}, {})
        optimizer = unflatten(_part(content, "optimizer"), moments)
        state = unflatten(_part(content, "state"), tensors)
        own = tuple(unflatten(_part({"rank": text}, "rank"), values) for text, values in ranked)
        return Checkpoint(agent, weights, optimizer, state, own)
    except InvalidInputError as error:
        raise _damaged(folder, error) from error


def checkpoints_in(parent: Path) -> list[Path]:
    """The complete checkpoints below a folder, the oldest first.

    Only folders whose name is ``round-`` and at least six digits: what else is there is not ours.
    """
    found = {path: _NAME.fullmatch(path.name) for path in parent.glob("round-*") if path.is_dir()}
    numbers = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(numbers, key=lambda path: numbers[path])


def latest_checkpoint(parent: Path) -> Path:
    """The newest complete checkpoint below a folder.

    Raises:
        InvalidInputError: There is none.
    """
    folders = checkpoints_in(parent)
    if not folders:
        raise InvalidInputError(f"expected a checkpoint in {parent}, found none")
    return folders[-1]


def prune_checkpoints(parent: Path, keep: int) -> None:
    """Deletes all but the newest ``keep`` checkpoints."""
    folders = checkpoints_in(parent)
    for folder in folders[: max(0, len(folders) - keep)]:
        discard(folder)


def files(others: int = 0) -> tuple[str, ...]:
    """The files of a checkpoint of one process and so many others."""
    return FILES + tuple(name for rank in range(1, others + 1) for name in _rank_files(rank))


def _rank_files(rank: int) -> tuple[str, str]:
    return f"rank-{rank:05d}.json", f"rank-{rank:05d}.safetensors"


def _checked_sums(folder: Path, names: Iterable[str] | None) -> int:
    """Checks some of the files, or all; returns of how many other processes there are files."""
    _check_is_file(folder / SUMS)
    *lines, rest = (folder / SUMS).read_bytes().decode("ascii").split("\n")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    others = sum(bool(_RANKED.fullmatch(name)) for name in sums) // 2
    if rest or set(sums) != set(files(others)):
        raise ValueError(f"{SUMS} does not list the files of a checkpoint")
    for name in sums if names is None else names:
        _check_is_file(folder / name)
        if sums[name] != _sha256(folder / name):
            raise ValueError(f"{name} is not what was written (its SHA-256 differs)")
    return others


def _check_is_file(file: Path) -> None:
    if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe may never end
        raise ValueError(f"{file.name} is no file")


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, in memory of their own instead of the file's pages."""
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    if not isinstance(part, dict):
        raise InvalidInputError(f"expected {name!r} to be an object, got {type(part).__name__}")
    return part


def _damaged(folder: Path, error: Exception) -> InvalidInputError:
    reason = one_line(str(error)) or type(error).__name__
    return InvalidInputError(
        f"expected a complete checkpoint in {one_line(str(folder))}, got: {reason}; an older one "
        "beside it may be whole: delete or rename this one to use that"
    )
