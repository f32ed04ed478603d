"""PPO in one file, with storage tensors and NumPy environments, as CleanRL writes it.

``python examples/cleanrl_ppo.py --rounds 2``

The policy is a small network beside the latent instead of a denoiser, so it runs in seconds and
draws no pictures: what this shows is how the parts fit.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Normal

import diffusion_gym  # noqa: F401  (registers the environment)


class Agent(nn.Module):
    """A Gaussian around the latent, with a network that sees latent and timestep."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.log_std = nn.Parameter(torch.full((), -1.0))

    def distribution(self, obs: dict[str, Tensor]) -> Normal:
        """The next latent's distribution."""
        latent, timestep = obs["latent"], obs["timestep"]
        time = (timestep / 1000)[..., None, None].expand(-1, 1, *latent.shape[2:])
        change = self.mean(torch.cat([latent, time], 1))
        return Normal(latent + change, self.log_std.exp())

    def log_prob(self, obs: dict[str, Tensor], action: Tensor) -> Tensor:
        """Log-probability of the next latents, a mean over their dimensions, ``[B]``."""
        log_prob: Tensor = self.distribution(obs).log_prob(action).mean((1, 2, 3))
        return log_prob


@dataclass
class Storage:
    """S steps of B environments.

    Attributes:
        obs: By name, ``[S, B, …]``.
        actions: ``[S, B, C, h, w]``.
        logprobs: ``[S, B]``.
        rewards: ``[S, B]``.
        dones: 1 after an episode's last step, ``[S, B]``.
        recorded: Returns that Gymnasium's wrapper recorded, ``[B]`` each time episodes ended.
    """

    obs: dict[str, Tensor]
    actions: Tensor
    logprobs: Tensor
    rewards: Tensor
    dones: Tensor
    recorded: list[Any]


def make_envs(num_envs: int, num_inference_steps: int) -> Any:
    """NumPy environments that record their returns."""
    return RecordEpisodeStatistics(
        gym.make_vec(
            "DiffusionT2I-v0",
            num_envs=num_envs,
            num_inference_steps=num_inference_steps,
            device="cpu",
        )
    )


@torch.no_grad()
def rollout(envs: Any, agent: Agent, next_obs: dict[str, Any], steps: int) -> Storage:
    """Plays from an observation on."""
    count = envs.num_envs
    spaces = envs.single_observation_space.spaces
    storage = Storage(
        obs={key: torch.zeros(steps, count, *space.shape) for key, space in spaces.items()},
        actions=torch.zeros(steps, count, *envs.single_action_space.shape),
        logprobs=torch.zeros(steps, count),
        rewards=torch.zeros(steps, count),
        dones=torch.zeros(steps, count),
        recorded=[],
    )
    for step in range(steps):
        for key, values in storage.obs.items():
            values[step] = torch.from_numpy(next_obs[key])
        here = {key: values[step] for key, values in storage.obs.items()}
        storage.actions[step] = agent.distribution(here).sample()
        storage.logprobs[step] = agent.log_prob(here, storage.actions[step])
        next_obs, reward, terminations, truncations, infos = envs.step(
            storage.actions[step].numpy()
        )
        storage.rewards[step] = torch.from_numpy(reward)
        storage.dones[step] = torch.from_numpy(np.logical_or(terminations, truncations)).float()
        if "episode" in infos:
            storage.recorded.append(infos["episode"]["r"])
    return storage


def returns_to_go(storage: Storage) -> Tensor:
    """Undiscounted, hence the episode's reward at each of its steps, ``[S, B]``."""
    returns, to_come = torch.zeros_like(storage.rewards), torch.zeros(storage.rewards.shape[1])
    for step in reversed(range(len(returns))):
        to_come = storage.rewards[step] + (1 - storage.dones[step]) * to_come
        returns[step] = to_come
    return returns


def update(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    storage: Storage,
    *,
    epochs: int,
    batch_size: int,
    clip_range: float = 0.2,
) -> list[Tensor]:
    """PPO's clipped update in minibatches; returns the ratios of each."""
    returns = returns_to_go(storage)
    advantages = ((returns - returns.mean()) / (returns.std() + 1e-8)).flatten()
    obs = {key: value.flatten(0, 1) for key, value in storage.obs.items()}
    actions, logprobs = storage.actions.flatten(0, 1), storage.logprobs.flatten()
    ratios = []
    for _ in range(epochs):
        for batch in torch.randperm(len(actions)).split(batch_size):
            part = {key: value[batch] for key, value in obs.items()}
            ratio = (agent.log_prob(part, actions[batch]) - logprobs[batch]).exp()
            unclipped = advantages[batch] * ratio
            clipped = advantages[batch] * ratio.clamp(1 - clip_range, 1 + clip_range)
            loss = -torch.min(unclipped, clipped).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ratios.append(ratio.detach())
    return ratios


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Trains; returns the mean reward of every round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=2, help="per environment and round")
    parser.add_argument("--num-inference-steps", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    envs = make_envs(options.num_envs, options.num_inference_steps)
    agent = Agent(envs.single_action_space.shape[0])
    optimizer = torch.optim.Adam(agent.parameters(), 1e-3)
    steps = options.episodes * options.num_inference_steps
    rewards = []
    for number in range(options.rounds):
        next_obs, _ = envs.reset(seed=number)
        storage = rollout(envs, agent, next_obs, steps)
        update(agent, optimizer, storage, epochs=2, batch_size=steps)
        rewards.append(float(storage.rewards.sum() / storage.dones.sum()))
        print(f"{number}: reward {rewards[-1]:.3f}")
    envs.close()
    return rewards


if __name__ == "__main__":
    main()
