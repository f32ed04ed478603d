"""One trajectory branches into many: states are read, copied and restored.

python examples/branching.py --shared-steps 5 --branches 4
"""

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

import diffusion_gym


def main(arguments: Sequence[str] | None = None) -> Tensor:
    """Draws images that share their first steps; returns their rewards, ``[branches]``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared-steps", type=int, default=5)
    parser.add_argument("--branches", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    # 1. The prefix, in all rows of the environment.
    env: Any = gym.make_vec("DiffusionT2I-v0", num_envs=options.branches, array_type="torch")
    generator = torch.Generator().manual_seed(options.seed)
    policy = diffusion_gym.reference_policy(env, generator=generator)
    observation, _ = env.reset(seed=options.seed)
    for _ in range(options.shared_steps):
        observation, *_ = env.step(policy(observation)[0])

    # 2. Row 0 as often as there are branches; the policy's noise makes them part.
    state = env.unwrapped.get_state()
    branches = state.select([0] * options.branches)
    observation, info = env.unwrapped.set_state(branches)
    rewards, terminated = torch.zeros(options.branches), torch.zeros(options.branches).bool()
    while not terminated.any():
        observation, rewards, terminated, _, info = env.step(policy(observation)[0])
    episodes = diffusion_gym.finished_episodes(info)
    prompt = env.unwrapped.prompt_text(int(episodes.prompt_id[0]))
    print(f"{prompt!r}, {options.shared_steps} steps in common: {rewards.tolist()}")
    return rewards


if __name__ == "__main__":
    main()
