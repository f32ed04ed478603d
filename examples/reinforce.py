"""REINFORCE by hand, without any agent of this project: torch, the environment and a denoiser.

python examples/reinforce.py --updates 3
"""

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch

import diffusion_gym  # noqa: F401  (registers the environment)
from diffusion_gym.models import PromptEmbedding, guided_prediction


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Trains, and returns the mean reward of every update's images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--num-envs", type=int, default=16, help="images per update")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    # 1. The environment knows everything about a step but what the denoiser predicts.
    env: Any = gym.make_vec("DiffusionT2I-v0", num_envs=options.num_envs, array_type="torch")
    schedule = env.unwrapped.schedule
    denoiser = env.unwrapped.model.new_denoiser().requires_grad_(True)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=options.learning_rate)

    # 2. Draw a batch of images, remember the log-probabilities, make the good images more likely.
    rewards = []
    observation, _ = env.reset(seed=options.seed)
    for update in range(options.updates):
        log_probs = []
        for i in range(schedule.num_steps):
            output = guided_prediction(
                denoiser,
                observation["latent"],
                schedule.timesteps[i].expand(options.num_envs),
                PromptEmbedding.observed(observation),
            )
            step = schedule.transition(output, observation["latent"], i)
            action = schedule.sample(step).detach()
            log_probs.append(schedule.log_prob(action, step))
            # After the last step, this is the first observation of the next episodes.
            observation, reward, _, _, _ = env.step(action)
        advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
        optimizer.zero_grad()
        (-advantage * torch.stack(log_probs).sum(0)).mean().backward()
        optimizer.step()
        rewards.append(float(reward.mean()))
        print(f"{update}: reward {rewards[-1]:.3f}")
    return rewards


if __name__ == "__main__":
    main()
