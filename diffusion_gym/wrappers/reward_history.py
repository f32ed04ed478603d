"""What a branch's reward is compared with: its prompt's earlier rewards, or its siblings'."""

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError

Share = Callable[[list[tuple[str, float, bool]]], list[tuple[str, float, bool]]]
"""From one process's rows of prompt, reward and whether it is valid to those of all."""


class RewardHistory:
    """The rewards of every prompt in the current and some earlier stages.

    Args:
        stages: Earlier stages that are remembered.
    """

    def __init__(self, stages: int) -> None:
        if stages < 0:
            raise InvalidInputError(f"expected a history of 0 or more stages, got {stages}")
        self._stages: deque[dict[str, list[float]]] = deque(maxlen=stages)

    def update(
        self,
        prompts: Sequence[str],
        rewards: Tensor,
        valid: Tensor,
        share: Share | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Takes in a stage and returns mean and unbiased deviation of every row's prompt.

        Args:
            prompts: Prompt of every row, ``[B]``.
            rewards: ``[B]`` float64.
            valid: ``[B]`` bool; other rewards are left out.
            share: Makes of these rows those of the whole stage; None: they are.

        Returns:
            Mean and deviation, ``[B]``; the deviation of fewer than two rewards is NaN.
        """
        rows = list(zip(prompts, rewards.tolist(), valid.tolist(), strict=True))
        current: dict[str, list[float]] = {}
        for prompt, reward, scored in rows if share is None else share(rows):
            current.setdefault(prompt, [])
            if scored:
                current[prompt].append(reward)
        moments = {}
        for prompt, values in current.items():
            earlier = [value for stage in self._stages for value in stage.get(prompt, [])]
            moments[prompt] = _mean_and_deviation([*earlier, *values])
        self._stages.append(current)
        table = torch.tensor([moments[prompt] for prompt in prompts], dtype=torch.float64)
        return table[:, 0], table[:, 1]

    def state_dict(self) -> list[dict[str, list[float]]]:
        """The stages remembered, the oldest first."""
        return [{prompt: list(values) for prompt, values in s.items()} for s in self._stages]

    def load_state_dict(self, state: Sequence[dict[str, list[float]]]) -> None:
        """Takes up where `state_dict` left off."""
        self._stages.clear()
        self._stages.extend(state)


def leave_one_out_mean(rewards: Tensor, valid: Tensor) -> Tensor:
    """The mean reward of the other branches of a group, ``[G, K]``.

    Args:
        rewards: ``[G, K]``.
        valid: ``[G, K]`` bool; other rewards are left out.

    Returns:
        The mean of every branch's valid siblings; NaN where there are none.
    """
    counted = torch.where(valid, rewards, 0.0)
    siblings = valid.sum(1, keepdim=True) - valid.long()
    return (counted.sum(1, keepdim=True) - counted) / siblings


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    return float(np.mean(values)), float(np.std(values, ddof=1))
