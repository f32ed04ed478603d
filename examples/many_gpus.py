"""One policy trained by several processes, each on a device of its own.

``torchrun --nproc-per-node 2 examples/many_gpus.py --images 64``

Started by ``python`` it is one process, with the same results but for rounding. All numbers of
images are of all processes together.
"""

import argparse
from collections.abc import Sequence

import gymnasium as gym

from agents.common.processes import join, leave
from agents.ppo import DiffusionPPO


def main(arguments: Sequence[str] | None = None) -> DiffusionPPO:
    """Trains; returns the agent, which every process has."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--num-envs", type=int, default=32, help="of all processes together")
    parser.add_argument("--save", help="file for the agent, in Stable-Baselines3's format")
    options = parser.parse_args(arguments)
    processes = join()
    if options.num_envs % processes.count:
        parser.error(f"{processes.count} processes need a --num-envs that they divide")
    # This process's part of the batch; on several GPUs, on its own one.
    rows = options.num_envs // processes.count
    env = gym.make_vec("DiffusionT2I-v0", num_envs=rows, array_type="torch")
    agent = DiffusionPPO(
        "UNetPolicy",
        env,
        samples_per_prompt=8,
        learning_rate=1e-3,
        policy_kwargs={"lora_rank": 16},
        seed=0,
        verbose=1,
    )
    agent.learn(options.images)
    if processes.is_main:
        print(f"{agent.reward_queries} images, {agent.rounds} rounds, {processes.count} processes")
        if options.save:
            agent.save(options.save)
    leave()
    return agent


if __name__ == "__main__":
    main()
