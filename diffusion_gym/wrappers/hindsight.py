"""The hindsight protocol: what is known about an episode's steps once it has ended.

A dense reward that depends on the final image is known only at the end of the episode. So the
reward stays the honest stream 0 … 0, r, and wrappers write into the finished episode's info:

``credit``
    ``[T]`` float32 with sum 1, each step's share of the return. Absent: that which belongs to the
    ``step_weight``, or else all of it at the last step, which is DDPO (arXiv 2305.13301).
``step_weight``
    ``[T]`` float32, the weight P_i of the advantage in step i. Absent: P_i = Σ_{j≥i} credit_j.
``step_mask``
    ``[T]`` bool, the steps to train on. Absent: all.
``advantage``
    A number, only from a wrapper with a baseline of its own. Absent: the agent's own statistics.

An agent takes A = ``advantage``, or its own, and trains step i, where the mask is true, on

    A_i = A · P_i,  with P_i = Σ_{j≥i} credit_j  unless ``step_weight`` says otherwise.

**Credit is summed, weights are not.** Who wants step i to weigh σ_i² writes ``step_weight`` σ_i²;
as ``credit`` it would be trained on Σ_{j≥i} σ_j². Either channel can be had from the other:
`credit_to_go` makes weights of credit, `credit_of` makes credit of weights. `step_rewards`, credit
times return, are for agents that learn from a dense reward: their sum from step i on, the
undiscounted return to come, is P_i times the return.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_gym.envs.infos import FinishedEpisodes
from diffusion_gym.errors import InvalidInputError

#: The keys that mean something to an agent; what else wrappers write is for people to read.
PROTOCOL_KEYS = ("credit", "step_weight", "step_mask", "advantage")


@dataclasses.dataclass(frozen=True, eq=False)
class Hindsight:
    """The protocol's values for N finished episodes of T steps, with defaults filled in.

    Attributes:
        credit: Each step's share of the return, ``[N, T]`` float32.
        step_weight: P_i, what the advantage is multiplied with in step i, ``[N, T]`` float32.
        step_mask: ``[N, T]`` bool; false everywhere in episodes that could not be scored.
        advantage: ``[N]`` float32, or None where no wrapper has a baseline of its own; NaN in
            episodes that have none.
    """

    credit: Any
    step_weight: Any
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
        InvalidInputError: If credit, weight or mask is not ``[N, T]`` or the advantage not
            ``[N]``, or if no credit can belong to the weights (`credit_of`).
    """
    count = len(episodes)
    shape = (count, num_steps)
    valid = torch.as_tensor(episodes.reward_valid)

    # Credit: what was written, else what belongs to the weights, else DDPO's.
    credit = torch.zeros(shape, device=valid.device)
    credit[:, -1] = 1.0
    weights, has_weights = _written(episodes, "step_weight", credit)
    if has_weights.any():
        credit[has_weights] = credit_of(weights[has_weights])
    given, has_credit = _written(episodes, "credit", credit)
    credit[has_credit] = given[has_credit]

    # Weights: what was written, else the credit from the step on.
    step_weight = credit_to_go(credit)
    step_weight[has_weights] = weights[has_weights]

    mask = torch.ones(shape, dtype=torch.bool, device=valid.device)
    given, has_mask = _written(episodes, "step_mask", mask)
    mask[has_mask] = given[has_mask]

    advantage = torch.full((count,), torch.nan, device=valid.device)
    given, has_advantage = _written(episodes, "advantage", advantage)
    advantage[has_advantage] = given[has_advantage]

    as_numpy = isinstance(episodes.rows, np.ndarray)
    return Hindsight(
        credit=_returned(credit, as_numpy),
        step_weight=_returned(step_weight, as_numpy),
        step_mask=_returned(mask & valid[:, None], as_numpy),
        advantage=_returned(advantage, as_numpy) if has_advantage.any() else None,
    )


def credit_to_go(credit: Tensor) -> Tensor:
    """P_i = Σ_{j≥i} credit_j, ``[N, T]``: undiscounted reward-to-go of a unit return.

    A one-hot credit at the last step (DDPO's terminal reward) gives ones everywhere.
    """
    return credit.flip(1).cumsum(1).flip(1)


def credit_of(weights: Tensor) -> Tensor:
    """The credit whose sums from step i on are proportional to the weights P_i.

    credit_i = (P_i − P_{i+1}) / P_f with P_T = 0, where f is the first step whose weight is not 0.
    From f on the sums are P_i / P_f, so the whole is 1. No credit makes the steps before f weigh
    nothing beside later ones that count; they get the credit 0, and must be masked, as
    `CreditReward` does. Weights that rise towards the end make entries negative.

    Args:
        weights: ``[N, T]``.

    Returns:
        ``[N, T]``, with the sum 1 in every row.

    Raises:
        InvalidInputError: For another number of dimensions, weights that are not finite, a row of
            zeros, or a row that begins with a negative weight: the agent would be told to do the
            opposite.
    """
    if weights.ndim != 2:
        raise InvalidInputError(f"expected weights [N, T], got {list(weights.shape)}")
    if not bool(weights.isfinite().all()):
        raise InvalidInputError("expected finite step weights, got NaN or infinity")
    weighs = weights != 0
    if not bool(weighs.any(1).all()):
        raise InvalidInputError(
            "expected step weights of which some are not 0 in every episode, got zeros alone"
        )
    # argmax gives the first of several.
    first = weights.gather(1, weighs.int().argmax(1, keepdim=True))
    if bool((first < 0).any()):
        raise InvalidInputError(
            f"expected step weights that begin positive, got {first.min().item():g} as the first "
            "that is not 0"
        )
    following = torch.cat([weights[:, 1:], torch.zeros_like(weights[:, :1])], dim=1)
    begun = weighs.cumsum(1) > 0
    return torch.where(begun, (weights - following) / first, 0.0)


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


def _written(episodes: FinishedEpisodes, key: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """What wrappers wrote under a key, as a tensor like another, and which episodes have it."""
    has = torch.as_tensor(episodes.has(key), device=like.device)
    if key not in episodes.extras:
        return like, has
    value = torch.as_tensor(episodes.extras[key])
    if value.shape != like.shape:
        raise InvalidInputError(
            f"expected {key} of shape {tuple(like.shape)} in the infos, got {tuple(value.shape)}"
        )
    return value.to(like), has


def _returned(tensor: Tensor, as_numpy: bool) -> Any:
    return tensor.numpy() if as_numpy else tensor
