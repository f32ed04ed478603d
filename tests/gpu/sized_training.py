"""What is trained in these tests: a checkpoint of some size, on some device."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import diffusion_gym  # noqa: F401
from agents.nft import DiffusionNFT
from agents.ppo import DiffusionPPO
from benchmarks.sized.checkpoints import save_checkpoint_of
from benchmarks.sized.networks import ModelSize

PROMPTS = ["a cat", "a dog", "an apple", "grapes"]
POLICY = {"lora_rank": 4, "guidance": 5.0, "optimizer": "adamw_fused"}
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Setting:
    """A checkpoint, and where to train it."""

    def __init__(self, size: ModelSize, device: str, folder: Path) -> None:
        self.size = size
        self.device = device
        self.folder = save_checkpoint_of(size, folder, device)

    def env(self, dtype: str = "bfloat16") -> Any:
        return gym.make_vec(
            "DiffusionT2I-v0",
            num_envs=4,
            array_type="torch",
            model=str(self.folder),
            prompts=PROMPTS,
            reward="jpeg_compressibility",
            num_inference_steps=4,
            device=self.device,
            dtype=dtype,
        )

    def agent(self, dtype: str = "bfloat16", **policy_kwargs: Any) -> DiffusionPPO:
        return DiffusionPPO(
            "UNetPolicy",
            self.env(dtype),
            samples_per_prompt=2,
            updates_per_round=2,
            batch_size=4,
            learning_rate=1e-3,
            policy_kwargs=POLICY | policy_kwargs,
            seed=0,
        )

    def forward_agent(self) -> DiffusionNFT:
        return DiffusionNFT(
            "UNetPolicy",
            self.env(),
            samples_per_prompt=2,
            timesteps_per_image=2,
            batch_size=4,
            learning_rate=1e-3,
            reference_coef=1e-4,
            policy_kwargs=POLICY | {"guidance": 1.0, "gradient_checkpointing": True},
            seed=0,
        )


def adapters(agent: DiffusionPPO | DiffusionNFT) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.policy.trainable_parameters()])


def log_probs(agent: DiffusionPPO) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the actions of a first step: as they were drawn, and taken again for training."""
    policy = agent.policy
    observation, _ = agent.env.base_env.reset(seed=0)
    step = policy.act(observation)
    again = policy.log_prob(step.actions, policy.transition(*policy.conditions(observation)))
    return step.log_prob, again


def disturb(agent: DiffusionPPO) -> None:
    """Fresh adapters do nothing."""
    with torch.no_grad():
        for parameter in agent.policy.trainable_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
