"""The hindsight protocol: what is known about an episode's steps once it has ended.

A dense reward that depends on the final image is known only at the end of the episode. So the
reward stays the honest stream 0 … 0, r, and wrappers write into the finished episode's info:

``credit``
    ``[T]`` float32 with sum 1, each step's share of the return. Absent: all of it belongs to the
    last step, which is DDPO (arXiv 2305.13301).
``step_mask``
    ``[T]`` bool, the steps to train on. Absent: all.
``advantage``
    A number, only from a wrapper with a baseline of its own. Absent: the agent's own statistics.

An agent takes A = ``advantage``, or its own, and trains step i on A Σ_{j≥i} credit_j where the
mask is true. `step_rewards`, credit times return, are for agents that learn from a dense reward.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_gym.envs.infos import FinishedEpisodes
from diffusion_gym.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, eq=False)
class Hindsight:
    """The protocol's values for N finished episodes of T steps, with defaults filled in.

    Attributes:
        credit: ``[N, T]`` float32.
        step_mask: ``[N, T]`` bool; false everywhere in episodes that could not be scored.
        advantage: ``[N]`` float32, or None where no wrapper has a baseline of its own.
    """

    credit: Any
    step_mask: Any
    advantage: Any | None


def hindsight(episodes: FinishedEpisodes, num_steps: int) -> Hindsight:
    """Reads what wrappers wrote about finished episodes, and fills in the defaults.

    Args:
        episodes: N finished episodes.
        num_steps: T.

    Returns:
        Arrays of the kind that the episodes have.

    Raises:
        InvalidInputError: If credit or mask is not ``[N, T]`` or the advantage not ``[N]``.
    """
    count = len(episodes)
    shapes = {
        "credit": (count, num_steps),
        "step_mask": (count, num_steps),
        "advantage": (count,),
    }
    extras = {
        key: torch.as_tensor(episodes.extras[key]) for key in shapes if key in episodes.extras
    }
    for key, value in extras.items():
        if value.shape != shapes[key]:
            raise InvalidInputError(
                f"expected {key} of shape {shapes[key]} in the infos, got {tuple(value.shape)}"
            )
    valid = torch.as_tensor(episodes.reward_valid)
    credit = extras.get("credit")
    if credit is None:
        credit = torch.zeros(count, num_steps, device=valid.device)
        credit[:, -1] = 1.0
    mask = extras.get("step_mask")
    if mask is None:
        mask = torch.ones(count, num_steps, dtype=torch.bool, device=valid.device)
    advantage = extras.get("advantage")
    as_numpy = isinstance(episodes.rows, np.ndarray)
    return Hindsight(
        credit=_returned(credit.float(), as_numpy),
        step_mask=_returned(mask & valid[:, None], as_numpy),
        advantage=None if advantage is None else _returned(advantage.float(), as_numpy),
    )


def step_rewards(credit: Any, returns: Any) -> Any:
    """The return of an episode shared out among its steps: credit × return.

    Args:
        credit: ``[N, T]``, a sum of 1 in every row.
        returns: ``[N]``.

    Returns:
        ``[N, T]``, a sum of the return in every row.
    """
    return credit * returns[:, None]


def restrict_credit(credit: Tensor, step_mask: Tensor, guard: float = 0.05) -> Tensor:
    """Credit of the steps that are trained, brought back to the sum 1.

    Args:
        credit: ``[N, T]``, a sum of 1 in every row.
        step_mask: ``[N, T]`` bool.
        guard: Where less credit than this lies inside the mask, a negative sum included, dividing
            by it would blow the credit up or reverse it; it is uniform over the mask there.

    Returns:
        ``[N, T]``; a row without any step to train keeps its credit.
    """
    kept = credit * step_mask
    total = kept.sum(1, keepdim=True)
    steps = step_mask.sum(1, keepdim=True)
    restricted = torch.where(total < guard, step_mask / steps, kept / total)
    return torch.where(steps > 0, restricted, credit)


def _returned(tensor: Tensor, as_numpy: bool) -> Any:
    return tensor.numpy() if as_numpy else tensor
