"""Standardising the advantages of single steps, CoCA's second standardisation among the ways."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_gym.errors import unknown_name

EPSILON = 1e-6

STANDARDISATIONS = {
    "unit_variance": "divide by the deviation over the round",
    "scale": "divide by the deviation of the prompt",
    "center": "subtract the mean of the prompt and divide by its deviation (CoCA)",
}
"""What may be done to the advantages of steps, by the name that the agent knows it by."""


class StandardisedSteps(NamedTuple):
    """Advantages of steps, and what standardising did to their signs.

    Attributes:
        advantages: ``[B, T]``; 0 where a step is not trained.
        wrong_signs: Share of the trained steps whose advantage changed its sign: they are pushed
            against what their episode earned.
    """

    advantages: Tensor
    wrong_signs: float


class StepStandardisation:
    """Brings the advantages of a round's steps, A P_i, to one scale.

    - ``"unit_variance"``: R̃ = R / (std + 1e-6) with the deviation over all trained steps of the
      round. Nothing is subtracted, so no sign changes. The control for methods that standardise:
      with a terminal reward it is DDPO at unit variance.
    - ``"scale"``: the same with the deviation of the prompt's own steps, where at least
      ``min_count`` of its trajectories are in the round, else over the whole round.
    - ``"center"``: R̃ = (R − mean) / (std + 1e-6), both taken as in ``"scale"``: the second
      standardisation of CoCA (arXiv 2505.19196). In small groups it turns many signs round.

    The result is clipped to ± ``clip``.

    Args:
        mode: One of the three.
        min_count: Trajectories that a prompt needs for statistics of its own.
        clip: Bound on the result.

    Raises:
        InvalidInputError: For an unknown mode.
    """

    def __init__(self, mode: str, min_count: int = 16, clip: float = 5.0) -> None:
        if mode not in STANDARDISATIONS:
            raise unknown_name("standardisation of steps", mode, STANDARDISATIONS)
        self.mode = mode
        self.min_count = min_count
        self.clip = clip

    def __call__(
        self, advantages: Tensor, prompt_ids: Tensor, trained: Tensor
    ) -> StandardisedSteps:
        """Standardises a round.

        Args:
            advantages: R = A P_i, ``[B, T]``.
            prompt_ids: ``[B]``.
            trained: Steps that are trained, ``[B, T]`` bool; the others take no part.
        """
        groups = torch.zeros_like(prompt_ids) if self.mode == "unit_variance" else prompt_ids
        mean, std = group_moments(advantages, groups, trained, self.min_count)
        centred = advantages - mean[:, None] if self.mode == "center" else advantages
        scaled = (centred / (std[:, None] + EPSILON)).clamp(-self.clip, self.clip)
        result = torch.where(trained, scaled, 0.0)
        wrong = (result * advantages < 0)[trained]
        return StandardisedSteps(result, wrong.float().mean().item() if len(wrong) else 0.0)


def group_moments(
    values: Tensor, groups: Tensor, mask: Tensor, min_count: int
) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the steps of every trajectory's group, ``[B]`` each.

    Groups with fewer than ``min_count`` trajectories use the whole batch instead. The moments are
    those of CoCA (arXiv 2505.19196), built from each trajectory's: see `pooled_moments`.

    Args:
        values: ``[B, T]``.
        groups: Group of every trajectory, ``[B]``.
        mask: Steps that count, ``[B, T]`` bool; trajectories without any do not count either.
        min_count: Trajectories that a group needs.
    """
    counted = mask.any(1)
    overall_mean, overall_std = pooled_moments(values[counted], mask[counted])
    mean = overall_mean.repeat(len(values))
    std = overall_std.repeat(len(values))
    for group in groups.unique():
        member = groups == group
        chosen = member & counted
        if chosen.sum() >= min_count:
            mean[member], std[member] = pooled_moments(values[chosen], mask[chosen])
    return mean, std


def pooled_moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over trajectories, scalars, as CoCA's stat_tracking.py builds them.

    mean = mean(μ_n), std = √(mean(μ_n² + σ_n²) − mean²).

    μ_n and σ_n are a trajectory's mean and population deviation over its steps, so every
    trajectory weighs the same, however many of its steps count.

    Args:
        values: ``[N, T]``.
        mask: Steps that count, ``[N, T]`` bool, at least one in each trajectory. With N = 0 both
            moments are 0.
    """
    if len(values) == 0:
        return values.new_zeros(()), values.new_zeros(())
    steps = mask.sum(1)
    means = torch.where(mask, values, 0.0).sum(1) / steps
    squares = torch.where(mask, values.square(), 0.0).sum(1) / steps  # μ_n² + σ_n²
    mean = means.mean()
    return mean, (squares.mean() - mean.square()).clamp(min=0).sqrt()
