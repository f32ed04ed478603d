"""A loop in one file, with storage tensors and NumPy environments, as CleanRL writes them."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Normal

import diffusion_gym  # noqa: F401  (registers the environment)

T = 3
ENVS = 4
EPISODES = 2


class Agent(nn.Module):
    """A Gaussian around the latent, with a network that sees latent and timestep."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.log_std = nn.Parameter(torch.full((), -1.0))

    def distribution(self, obs: dict[str, Tensor]) -> Normal:
        latent, timestep = obs["latent"], obs["timestep"]
        time = (timestep / 1000)[..., None, None].expand(-1, 1, *latent.shape[2:])
        change = self.mean(torch.cat([latent, time], 1))
        return Normal(latent + change, self.log_std.exp())

    def log_prob(self, obs: dict[str, Tensor], action: Tensor) -> Tensor:
        return self.distribution(obs).log_prob(action).mean((1, 2, 3))


def test_a_round_of_ppo() -> None:
    torch.manual_seed(0)
    envs = RecordEpisodeStatistics(
        gym.make_vec("DiffusionT2I-v0", num_envs=ENVS, num_inference_steps=T, device="cpu")
    )
    channels = envs.single_action_space.shape[0]
    agent = Agent(channels)
    optimizer = torch.optim.Adam(agent.parameters(), 1e-3)

    # 1. Storage.
    steps = EPISODES * T
    spaces = envs.single_observation_space.spaces
    obs = {key: torch.zeros(steps, ENVS, *space.shape) for key, space in spaces.items()}
    actions = torch.zeros(steps, ENVS, *envs.single_action_space.shape)
    logprobs, rewards, dones = (torch.zeros(steps, ENVS) for _ in range(3))

    # 2. Rollout.
    next_obs, _ = envs.reset(seed=1)
    recorded = []
    for step in range(steps):
        for key in obs:
            obs[key][step] = torch.from_numpy(next_obs[key])
        with torch.no_grad():
            here = {key: value[step] for key, value in obs.items()}
            actions[step] = agent.distribution(here).sample()
            logprobs[step] = agent.log_prob(here, actions[step])
        next_obs, reward, terminations, truncations, infos = envs.step(actions[step].numpy())
        rewards[step] = torch.from_numpy(reward)
        dones[step] = torch.from_numpy(np.logical_or(terminations, truncations)).float()
        if "episode" in infos:
            recorded.append(infos["episode"]["r"])
    envs.close()

    # Episodes are where they should be, and the first step of each has fresh noise.
    ends = torch.arange(1, steps + 1) % T == 0
    assert (dones == ends[:, None]).all()
    assert (rewards[~ends] == 0).all()
    assert (rewards[ends] != 0).all()
    np.testing.assert_allclose(np.stack(recorded), rewards[ends], rtol=1e-6)
    torch.testing.assert_close(obs["latent"][1], actions[0], rtol=0, atol=0)
    assert (obs["timestep"][T] == obs["timestep"][0]).all()
    assert (obs["latent"][T] - actions[T - 1]).abs().mean() > 0.5

    # 3. Returns: undiscounted, hence the episode's reward at each of its steps.
    returns, to_come = torch.zeros_like(rewards), torch.zeros(ENVS)
    for step in reversed(range(steps)):
        to_come = rewards[step] + (1 - dones[step]) * to_come
        returns[step] = to_come
    torch.testing.assert_close(returns, rewards[ends].repeat_interleave(T, 0))
    advantages = (returns - returns.mean()) / (returns.std() + 1e-8)

    # 4. PPO's clipped update, in minibatches.
    flat_obs = {key: value.flatten(0, 1) for key, value in obs.items()}
    flat_actions, flat_logprobs = actions.flatten(0, 1), logprobs.flatten()
    flat_advantages = advantages.flatten()
    losses: list[float] = []
    for _ in range(2):
        for batch in torch.randperm(steps * ENVS).split(12):
            part = {key: value[batch] for key, value in flat_obs.items()}
            ratio = (agent.log_prob(part, flat_actions[batch]) - flat_logprobs[batch]).exp()
            if not losses:
                torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
            unclipped = flat_advantages[batch] * ratio
            clipped = flat_advantages[batch] * ratio.clamp(0.8, 1.2)
            loss = -torch.min(unclipped, clipped).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.isfinite(losses).all()
    with torch.no_grad():
        ratio = (agent.log_prob(flat_obs, flat_actions) - flat_logprobs).exp()
    assert ((ratio - 1) * flat_advantages).mean() > 0  # better actions have become more probable
