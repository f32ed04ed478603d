"""The info dictionaries: how they are laid out, and how to read finished episodes from them.

The layout is that of `gymnasium.vector.SyncVectorEnv`: beside every key lies a mask ``_key`` of the
rows that have it, and in same-step autoreset everything about an episode that has just ended is in
``infos["final_info"]``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError

Infos = dict[str, Any]

#: What the environment itself says about a finished episode; all else is from wrappers.
OWN_KEYS = ("prompt_id", "image", "return", "reward_valid", "reward_terms")

#: Where Gymnasium's `RecordEpisodeStatistics` writes. The vector version writes beside
#: ``final_info`` in same-step autoreset, although it speaks of the episodes that have ended.
STATISTICS = "episode"


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedEpisodes:
    """The N episodes that ended in one step; arrays of the kind that the environment returns.

    Attributes:
        rows: Their rows in the batch, ``[N]`` int64.
        prompt_id: Their prompts, ``[N]`` int64.
        image: Decoded images, ``[N, H, W, 3]`` uint8.
        returns: What the images scored, ``[N]`` float32. A wrapper that changes rewards, such as
            Gymnasium's ``TransformReward``, does not change this.
        reward_valid: ``[N]`` bool, False where the image could not be scored.
        reward_terms: What the reward is made of, ``[N]`` each.
        extras: All that wrappers wrote about these episodes, by key, ``[N, …]`` each, or a
            dictionary of such: the hindsight protocol's keys (`diffusion_gym.wrappers.hindsight`),
            measurements such as CoCA's ``credit_negative``, Gymnasium's ``episode`` statistics, and
            any key of a wrapper of yours.
        extras_mask: For the extras that only some of the episodes have: which, ``[N]`` bool. The
            extra is zero in the others, see `has`.
    """

    rows: Any
    prompt_id: Any
    image: Any
    returns: Any
    reward_valid: Any
    reward_terms: dict[str, Any]
    extras: dict[str, Any]
    extras_mask: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """N, the number of episodes."""
        return len(self.rows)

    def has(self, key: str) -> Any:
        """Which of the episodes have an extra, ``[N]`` bool."""
        everywhere = self.rows >= 0
        if key not in self.extras:
            return ~everywhere
        return self.extras_mask.get(key, everywhere)


def finished_episodes(infos: Mapping[str, Any]) -> FinishedEpisodes:
    """Reads the episodes that have just ended from any environment's info.

    Understands a single environment's info, and a vector environment's with same-step, next-step
    or disabled autoreset.

    Args:
        infos: What ``step`` returned.

    Returns:
        The episodes; none (N = 0) where no episode ended.

    Raises:
        InvalidInputError: If this is no info of a DiffusionT2I environment.
    """
    if "prompt_id" not in infos:
        raise InvalidInputError(
            f"expected the info of a DiffusionT2I environment, with 'prompt_id', got {list(infos)}"
        )
    # Bring the three layouts to one: a batch of which some rows have ended.
    batch = infos if "_prompt_id" in infos else _batch_of_one(infos)
    if "final_info" in batch:
        statistics = {key: batch[key] for key in (STATISTICS, f"_{STATISTICS}") if key in batch}
        batch = statistics | batch["final_info"]
    if "_image" not in batch:
        return _no_episodes(batch["prompt_id"])
    mask = batch["_image"]
    count = len(mask)
    rows = mask.nonzero().squeeze(1) if isinstance(mask, Tensor) else np.flatnonzero(mask)

    # Of what wrappers wrote, keep what is about these rows, and note where some of them lack it.
    extras, extras_mask = {}, {}
    for key, value in batch.items():
        if key.startswith("_") or key in OWN_KEYS or not _is_per_row(value, count):
            continue
        written = _select(batch.get(f"_{key}", mask), rows)
        if written.any():
            extras[key] = _select(value, rows)
            if not written.all():
                extras_mask[key] = written
    return FinishedEpisodes(
        rows=rows,
        prompt_id=batch["prompt_id"][rows],
        image=batch["image"][rows],
        returns=batch["return"][rows],
        reward_valid=batch["reward_valid"][rows],
        reward_terms=_select(batch["reward_terms"], rows),
        extras=extras,
        extras_mask=extras_mask,
    )


def _is_per_row(value: Any, count: int) -> bool:
    """Whether a value of the infos, or every leaf of it, has an entry for each of B rows."""
    if isinstance(value, dict):
        return all(_is_per_row(item, count) for item in value.values())
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0 and len(value) == count
    return False


def _select(value: Any, rows: Any) -> Any:
    """Some rows of an array, or of every array in a dictionary, whose masks are left out."""
    if isinstance(value, dict):
        return {key: _select(item, rows) for key, item in value.items() if not key.startswith("_")}
    if isinstance(value, np.ndarray) and isinstance(rows, Tensor):
        return value[rows.cpu().numpy()]  # a NumPy wrapper's, around an environment of tensors
    return value[rows]


def _batch_of_one(info: Mapping[str, Any]) -> Infos:
    """A single environment's info in a vector environment's layout."""
    batch: Infos = {}
    for key, value in info.items():
        batch[key] = _batch_of_one(value) if isinstance(value, dict) else np.asarray(value)[None]
        batch[f"_{key}"] = np.array([True])
    return batch


def _no_episodes(prompt_id: Any) -> FinishedEpisodes:
    """N = 0, in arrays of the kind of ``prompt_id``; the images' size is unknown here, hence 0."""
    none = prompt_id[:0]
    return FinishedEpisodes(
        rows=none,
        prompt_id=none,
        image=none.reshape(0, 0, 0, 3),
        returns=none.float() if isinstance(none, Tensor) else none.astype(np.float32),
        reward_valid=none > 0,
        reward_terms={},
        extras={},
    )


def scatter(values: Mapping[str, Any], rows: Tensor, num_envs: int) -> Infos:
    """Lays out some rows' values as a vector environment's infos, with a mask beside every key.

    Args:
        values: Tensors ``[N, …]``, or dictionaries of them.
        rows: Rows that the values belong to, ``[N]`` int64.
        num_envs: B, the number of rows.

    Returns:
        Under every key a tensor ``[B, …]``, zero in all other rows, and under ``_key`` the rows
        that have it, ``[B]`` bool.
    """
    mask = torch.zeros(num_envs, dtype=torch.bool, device=rows.device)
    mask[rows] = True
    infos: Infos = {}
    for key, value in values.items():
        if isinstance(value, dict):
            infos[key] = scatter(value, rows, num_envs)
        else:
            infos[key] = value.new_zeros((num_envs, *value.shape[1:]))
            infos[key][rows] = value
        infos[f"_{key}"] = mask
    return infos


def to_numpy(value: Any) -> Any:
    """Copies every tensor, also inside dictionaries, into a NumPy array of its own."""
    if isinstance(value, dict):
        return {key: to_numpy(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return np.array(value.cpu().numpy())
    return value


def singles(observation: Mapping[str, Any], rows: Any) -> Any:
    """Some rows of a batched NumPy observation as gymnasium's ``final_obs``: an object array.

    Args:
        observation: Arrays ``[B, …]``.
        rows: The rows, ``[N]``.

    Returns:
        ``[B]`` objects: a single environment's observation in those rows, None in the others.
    """
    count = len(next(iter(observation.values())))
    array = np.full(count, None, dtype=object)
    for row in rows:
        array[row] = {key: values[row].copy() for key, values in observation.items()}
    return array


def row_of(infos: Mapping[str, Any], row: int) -> Infos:
    """One row of batched infos as a single environment's info: numbers, bools and arrays.

    Truth values become Python's and ids Python's integers, since that is what
    `gymnasium.vector.SyncVectorEnv` can batch again.
    """
    info: Infos = {}
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        if isinstance(value, dict):
            info[key] = row_of(value, row)
        elif value.ndim == 1 and value.dtype != np.float32:
            info[key] = value[row].item()
        else:
            info[key] = value[row]
    return info
