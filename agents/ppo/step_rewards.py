"""Dense rewards known in hindsight, for Stable-Baselines3's own PPO."""

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers.hindsight import credit_of, step_rewards


class StepRewards(BaseCallback):
    """Lets stock PPO train on ``step_rewards``, credit × return.

    Its rollout buffer collects the honest rewards 0 … 0, r. When an episode ends, its ``credit``
    is known, and this callback shares the return out among the episode's steps in the buffer, then
    computes returns and advantages anew. Of a ``step_weight`` without
    credit it takes the credit that belongs to it. Without either (`SparseReward`, or no wrapper)
    nothing changes. ``step_mask`` and ``advantage`` have no place in stock PPO and are not used.

    The environment is a `SB3VecEnv`, or single environments in Stable-Baselines3's own vector
    environments, with a credit wrapper. A policy that reports no predicted clean latent, such as
    stock PPO's, needs ``CoCAReward(env, similarity="latent")``.

    Raises:
        InvalidInputError: If an episode began in an earlier rollout, which PPO has forgotten:
            ``n_steps`` must be a multiple of T.
    """

    model: PPO

    def __init__(self) -> None:
        super().__init__()
        #: (row, last step in the buffer, credit ``[T]``) of every episode that ended.
        self._ended: list[tuple[int, int, np.ndarray]] = []

    def _on_rollout_start(self) -> None:
        self._ended = []

    def _on_step(self) -> bool:
        position = self.model.rollout_buffer.pos  # this step is not in the buffer yet
        for row in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][row]
            credit = info.get("credit")
            if credit is None and "step_weight" in info:
                credit = credit_of(torch.as_tensor(info["step_weight"])[None])[0]
            if credit is not None:
                self._ended.append((int(row), position, np.asarray(credit)))
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer
        for row, last, credit in self._ended:
            first = last - len(credit) + 1
            if first < 0:
                raise InvalidInputError(
                    "expected whole episodes in a rollout: n_steps must be a multiple of "
                    f"T = {len(credit)}, got {self.model.n_steps}"
                )
            steps = slice(first, last + 1)
            returns = buffer.rewards[steps, row].sum(keepdims=True)
            buffer.rewards[steps, row] = step_rewards(credit[None], returns)[0]
        if self._ended:
            buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
