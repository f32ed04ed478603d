"""An agent of one's own, in one method: everything but the loss is shared with PPO.

``python examples/own_agent.py --images 64``

The loss here is that of advantage-weighted regression (arXiv 1910.00177): −exp(A / β) log π. It
has no ratio and nothing to clip; bad images are ignored instead of pushed away.
"""

import argparse
from collections.abc import Sequence

import gymnasium as gym
import torch
from torch import Tensor

from agents.ppo import DiffusionPPO
from agents.ppo.update import UpdateLog

BETA = 1.0
MOST = 20.0
"""Bound on the weight of an image, as in the paper."""


class WeightedRegression(DiffusionPPO):
    """Rounds, buffer, advantages, LoRA, logs, callbacks and files are `DiffusionPPO`'s."""

    def _loss(self, pairs: Tensor, *, first: bool) -> tuple[Tensor, UpdateLog]:
        """The loss of some (image, step) pairs ``[N]``, a scalar, and figures for the log."""
        del first
        batch = self.rollout_buffer.minibatch(pairs)
        step = self.policy.transition(batch.latents, batch.steps, self._embedding(batch.prompt_ids))
        log_prob = self.policy.log_prob(batch.next_latents, step)
        weights = (batch.advantages / BETA).exp().clamp(max=MOST)
        loss = -(weights * log_prob).mean()
        log_ratio = log_prob.detach() - batch.old_log_prob
        ratio = log_ratio.exp()
        return loss, UpdateLog(
            loss=loss.detach(),
            clip_fraction=torch.zeros(()),
            approx_kl=(ratio - 1 - log_ratio).mean(),
            ratio_deviation=(ratio - 1).abs().max(),
            kl_to_base=torch.full((), torch.nan),
        )


def main(arguments: Sequence[str] | None = None) -> WeightedRegression:
    """Trains; returns the agent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    options = parser.parse_args(arguments)
    env = gym.make_vec("DiffusionT2I-v0", num_envs=options.num_envs, array_type="torch")
    agent = WeightedRegression(
        "UNetPolicy",
        env,
        samples_per_prompt=8,
        learning_rate=options.learning_rate,
        seed=0,
        verbose=1,
    )
    agent.learn(options.images)
    return agent


if __name__ == "__main__":
    main()
