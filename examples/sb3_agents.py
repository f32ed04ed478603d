"""Stable-Baselines3: its callbacks around `DiffusionPPO`, and its own PPO on the environment.

python examples/sb3_agents.py --images 64
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback

from agents.ppo import DiffusionPPO


def main(arguments: Sequence[str] | None = None) -> tuple[DiffusionPPO, PPO]:
    """Trains both; returns them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("runs/sb3"))
    options = parser.parse_args(arguments)

    # 1. An algorithm of Stable-Baselines3 that counts in images: `save_freq` is in batches.
    env = gym.make_vec("DiffusionT2I-v0", num_envs=options.num_envs, array_type="torch")
    agent = DiffusionPPO(
        "UNetPolicy",
        env,
        samples_per_prompt=8,
        learning_rate=2e-4,
        policy_kwargs={"lora_rank": 16, "guidance": 1.0},
        seed=0,
        verbose=1,
    )
    agent.learn(options.images, callback=CheckpointCallback(1, str(options.output)))
    agent.save(options.output / "agent.zip")
    agent = DiffusionPPO.load(options.output / "agent.zip", env=env)

    # 2. Stock PPO, for compatibility: its Gaussian explores the latents blindly.
    single = gym.make("DiffusionT2I-v0")
    stock = PPO("MultiInputPolicy", single, n_steps=10, batch_size=10, n_epochs=1, device="cpu")
    stock.learn(10)
    return agent, stock


if __name__ == "__main__":
    main()
