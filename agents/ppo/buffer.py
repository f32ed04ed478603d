"""One round of complete denoising trajectories."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agents.common.episodes import Episodes, RoundBuffer
from agents.common.processes import Rows
from diffusion_gym.rewards import RewardResult


class Minibatch(NamedTuple):
    """A number N of (trajectory, step) pairs.

    Attributes:
        rows: Trajectory of each pair, ``[N]``.
        steps: Step index of each pair, ``[N]``.
        latents: x_i, ``[N, C, h, w]``.
        next_latents: x_{i+1}, ``[N, C, h, w]``.
        old_log_prob: Log-probability of x_{i+1} when it was drawn, ``[N]``.
        advantages: Advantage of the step, ``[N]``.
        prompt_ids: ``[N]``.
    """

    rows: Tensor
    steps: Tensor
    latents: Tensor
    next_latents: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    prompt_ids: Tensor


@dataclass(kw_only=True)
class Trajectories(Episodes):
    """B complete episodes of T steps.

    Attributes:
        latents: x_0 … x_T, ``[B, T+1, C, h, w]`` float32: each is stored once.
        log_probs: ``[B, T]``.
        credit: Share of each step in the return, ``[B, T]``, each row summing to 1.
        step_weight: What the advantage is multiplied with in each step, P_i, ``[B, T]``.
        step_mask: Steps to train on, ``[B, T]``.
    """

    latents: Tensor
    log_probs: Tensor
    credit: Tensor
    step_weight: Tensor
    step_mask: Tensor

    def take_scores(self, result: RewardResult) -> None:
        """Also leaves out the steps to images without a reward, as `hindsight` does."""
        super().take_scores(result)
        self.step_mask = self.step_mask & result.valid[:, None]


class TrajectoryBuffer(RoundBuffer[Trajectories]):
    """Collects trajectories batch by batch and hands out minibatches of steps."""

    def __init__(self) -> None:
        super().__init__()
        self._step_advantages: Tensor | None = None

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self._step_advantages = None

    def add(self, batch: Trajectories) -> None:
        """Adds a batch of complete trajectories."""
        super().add(batch)
        self._step_advantages = None

    @property
    def trajectories(self) -> Trajectories:
        """Everything that was added, as one batch."""
        return self.episodes

    @property
    def step_advantages(self) -> Tensor:
        """A_i of every step, ``[B, T]``: what was assigned, else A P_i."""
        if self._step_advantages is None:
            data = self.trajectories
            return data.advantages[:, None] * data.step_weight
        return self._step_advantages

    @step_advantages.setter
    def step_advantages(self, values: Tensor) -> None:
        self._step_advantages = values

    def trained(self, stochastic: Tensor) -> Tensor:
        """The steps to train on, ``[B, T]`` bool.

        Args:
            stochastic: Steps that have a density, ``[T]``.
        """
        return self.trajectories.step_mask & stochastic

    def pairs(
        self, stochastic: Tensor, generator: torch.Generator, rows: Rows | None = None
    ) -> Tensor:
        """Every (trajectory, step) pair to train on, shuffled, as indices into ``[B * T]``.

        Args:
            stochastic: Steps that have a density, ``[T]``.
            generator: Source of the order, on the CPU.
            rows: Which of the rows of all processes these are; the pairs are those of all.
        """
        trained = self.trained(stochastic)
        if rows is not None:
            trained = rows.everyone(trained)
        trainable = trained.flatten().nonzero()[:, 0]
        order = torch.randperm(len(trainable), generator=generator)
        return trainable[order.to(trainable.device)]

    def minibatch(self, pairs: Tensor) -> Minibatch:
        """Looks up the data of some pairs, ``[N]``."""
        data = self.trajectories
        rows, steps = pairs // data.log_probs.shape[1], pairs % data.log_probs.shape[1]
        return Minibatch(
            rows=rows,
            steps=steps,
            latents=data.latents[rows, steps],
            next_latents=data.latents[rows, steps + 1],
            old_log_prob=data.log_probs[rows, steps],
            advantages=self.step_advantages[rows, steps],
            prompt_ids=data.prompt_ids[rows],
        )
