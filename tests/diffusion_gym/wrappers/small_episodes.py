"""Short episodes for the tests of reward-shaping wrappers."""

from typing import Any

import gymnasium
import numpy as np
import torch

from diffusion_gym import finished_episodes

T = 4
TASK = {
    "num_inference_steps": T,
    "reward": "jpeg_compressibility",
    "prompts": ["a cat", "a dog", "an apple", "grapes"],
}


def make(**kwargs: Any) -> Any:
    return gymnasium.make("DiffusionT2I-v0", **(TASK | kwargs))


def make_vec(num_envs: int = 4, **kwargs: Any) -> Any:
    options = {"array_type": "torch"} | TASK | kwargs
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=num_envs, **options)


def actions_for(latents: Any, rng: np.random.Generator, noise: float = 0.3) -> Any:
    """Next latents with some noise, of the kind and shape of ``latents``."""
    drawn = rng.standard_normal(latents.shape, dtype=np.float32) * np.float32(noise)
    drawn += rng.standard_normal((), dtype=np.float32) * np.float32(0.1)
    return latents * 0.8 + (torch.from_numpy(drawn) if isinstance(latents, torch.Tensor) else drawn)


def play(env: Any, observation: Any, *, seed: int = 0, report: bool = True) -> Any:
    """The rest of an episode: rewards of the last step, infos, and the finished episodes."""
    rng = np.random.default_rng(seed)
    for _ in range(T):
        if report:
            env.unwrapped.report(actions_for(observation["latent"], rng, 1.0))
        action = actions_for(observation["latent"], rng)
        observation, rewards, _, _, infos = env.step(action)
    return rewards, infos, finished_episodes(infos)


def episode(env: Any, *, seed: int = 0, report: bool = True) -> Any:
    """A whole episode: see `play`."""
    return play(env, env.reset(seed=seed)[0], seed=seed, report=report)
