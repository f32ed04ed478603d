"""TorchRL: `GymEnv`, a collector, and `ClipPPOLoss` on the environment.

``python examples/torchrl_ppo.py --batches 2``

The policy is a small network beside the latent instead of a denoiser, so it runs in seconds and
draws no pictures: what this shows is how the parts fit.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import diffusion_gym  # noqa: F401  (registers the environment)


class Gaussian(nn.Module):
    """The next latent's distribution: a small step from this one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Conv2d(channels, channels, 3, padding=1)
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, of the latent's shape."""
        flat = latent.reshape(-1, *latent.shape[-3:])  # TorchRL has any number of batch dimensions
        mean = latent + self.change(flat).view_as(latent)
        return mean, self.log_std.exp().expand_as(mean)


def make_env(num_inference_steps: int) -> Any:
    """The environment as TorchRL has it."""
    return GymEnv("DiffusionT2I-v0", num_inference_steps=num_inference_steps, device="cpu")


def make_actor(env: Any) -> Any:
    """The policy."""
    channels = env.action_spec.shape[-3]
    network = TensorDictModule(Gaussian(channels), in_keys=["latent"], out_keys=["loc", "scale"])
    return ProbabilisticActor(
        network,
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        distribution_kwargs={"event_dim": 3},
        return_log_prob=True,
        spec=env.action_spec,
    )


def make_critic(env: Any) -> Any:
    """The values of latents."""
    latent = env.action_spec.shape[-3:]
    network = nn.Sequential(nn.Flatten(-3), nn.Linear(latent.numel(), 1))
    return ValueOperator(network, in_keys=["latent"])


def train(
    env: Any, actor: Any, critic: Any, *, batches: int, frames_per_batch: int, epochs: int
) -> list[float]:
    """PPO on batches of whole episodes; returns the mean reward of every batch."""
    collector = Collector(
        env, actor, frames_per_batch=frames_per_batch, total_frames=batches * frames_per_batch
    )
    loss = ClipPPOLoss(actor, critic)
    advantage = GAE(gamma=1.0, lmbda=1.0, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    rewards = []
    for batch in collector:
        rewards.append(float(batch["next", "reward"].sum()) / int(batch["next", "done"].sum()))
        for _ in range(epochs):
            advantage(batch)
            terms = loss(batch.flatten())
            optimizer.zero_grad()
            sum(term for name, term in terms.items() if name.startswith("loss_")).backward()
            optimizer.step()
        print(f"{len(rewards) - 1}: reward {rewards[-1]:.3f}")
    collector.shutdown()
    return rewards


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Trains; returns the mean reward of every batch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=4, help="in each batch")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--num-inference-steps", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    env = make_env(options.num_inference_steps)
    env.set_seed(0)
    return train(
        env,
        make_actor(env),
        make_critic(env),
        batches=options.batches,
        frames_per_batch=options.episodes * options.num_inference_steps,
        epochs=options.epochs,
    )


if __name__ == "__main__":
    main()
