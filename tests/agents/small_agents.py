"""Small environments and agents of the embedded model."""

from typing import Any

import gymnasium as gym
import torch

import diffusion_gym  # noqa: F401
from agents.ppo import DiffusionPPO

STEPS = 3


def make_env(num_envs: int = 4, **kwargs: Any) -> Any:
    """A vector environment of three denoising steps, cheap to score."""
    options = {"num_inference_steps": STEPS, "reward": "jpeg_compressibility"} | kwargs
    return gym.make_vec("DiffusionT2I-v0", num_envs=num_envs, array_type="torch", **options)


def make_agent(env: Any = None, **kwargs: Any) -> DiffusionPPO:
    """An agent that trains on two prompts a round, in two updates."""
    options = {"samples_per_prompt": 2, "updates_per_round": 2, "batch_size": 6, "seed": 3} | kwargs
    return DiffusionPPO("UNetPolicy", env or make_env(), **options)


def weights(agent: DiffusionPPO) -> torch.Tensor:
    """All trained weights in one vector."""
    return torch.cat([p.detach().flatten() for p in agent.policy.trainable_parameters()])
