"""A reward shaping of one's own: a wrapper that says how much each denoising step is trained.

python examples/own_credit.py --images 64
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from agents.ppo import DiffusionPPO
from diffusion_gym import FinishedEpisodes
from diffusion_gym.wrappers import CreditReward, SingleShaping, VectorShaping


class EarlySteps(CreditReward):
    """Trains the first steps most: P_i = (1 − i/T)^power.

    Args:
        env: A single or vector environment.
        power: How fast the weight falls.
    """

    def __init__(self, env: Any, power: float = 1.0) -> None:
        super().__init__(env, power=power)
        self.power = power

    def assign_credit(
        self, episodes: FinishedEpisodes, step_mask: Tensor, infos: dict[str, Any]
    ) -> Mapping[str, Tensor]:
        """The same weights for all episodes; and a number of each, for the log."""
        del infos
        count, steps = step_mask.shape
        weights = (1 - torch.arange(steps) / steps) ** self.power
        returns = torch.as_tensor(episodes.returns).cpu()
        return {"step_weight": weights.repeat(count, 1), "weighted_return": returns * weights.sum()}


class SingleEarlySteps(EarlySteps, SingleShaping, form_of=EarlySteps):
    """`EarlySteps` of a single environment."""


class VectorEarlySteps(EarlySteps, VectorShaping, form_of=EarlySteps):
    """`EarlySteps` of a vector environment."""


def main(arguments: Sequence[str] | None = None) -> DiffusionPPO:
    """Trains with it; returns the agent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--power", type=float, default=2.0)
    options = parser.parse_args(arguments)
    env = gym.make_vec("DiffusionT2I-v0", num_envs=options.num_envs, array_type="torch")
    agent = DiffusionPPO(
        "UNetPolicy",
        VectorEarlySteps(env, power=options.power),
        samples_per_prompt=8,
        learning_rate=1e-4,
        seed=0,
        verbose=1,
    )
    agent.learn(options.images)
    return agent


if __name__ == "__main__":
    main()
