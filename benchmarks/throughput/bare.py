"""The bare network, on the same batches and pairs as a round: what cannot be saved."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agents.policy import UNetPolicy
from agents.ppo import DiffusionPPO
from benchmarks.throughput.machine import timed
from diffusion_gym.models import PromptEmbedding, guided_prediction


@dataclass(frozen=True)
class Passes:
    """What the denoiser is given in a round of B images and T steps.

    Attributes:
        policy: Whose denoiser it is.
        latents: x_0 … x_{T-1} of all images, ``[T * B, C, h, w]``, step by step.
        embedding: Prompt embeddings of the images, of B rows.
        drawn: How many rows are drawn at once.
        updates: What every optimiser step trains on, as numbers of the latents' rows.
        chunk: How many of these go through the network at once.
    """

    policy: UNetPolicy
    latents: Tensor
    embedding: PromptEmbedding
    drawn: int
    updates: tuple[Tensor, ...]
    chunk: int

    @classmethod
    def of(cls, agent: DiffusionPPO) -> "Passes":
        """Those of the round in an agent's buffer, in a fresh order of the pairs."""
        data = agent.rollout_buffer.trajectories
        images, steps = data.log_probs.shape
        pairs = agent.rollout_buffer.pairs(agent.policy.schedule.stochastic, torch.Generator())
        rows = pairs % steps * images + pairs // steps
        return cls(
            policy=agent.policy,
            latents=data.latents[:, :-1].transpose(0, 1).flatten(0, 1),
            embedding=agent.base_env.prompt_embedding(data.prompt_ids),
            drawn=agent.base_env.num_envs,
            updates=torch.tensor_split(rows, agent.config.updates_per_round),
            chunk=agent.batch_size,
        )

    def output(self, rows: Tensor) -> Tensor:
        """What the denoiser predicts for some rows, guided as the policy is."""
        policy, images = self.policy, len(self.embedding.tokens)
        guidance = policy.guidance
        with policy.precision.autocast():
            return guided_prediction(
                policy.denoiser,
                self.latents[rows],
                policy.schedule.timesteps[rows // images],
                self.embedding.select(rows % images),
                null_embedding=None if guidance == 1.0 else policy.model.null_embedding,
                guidance=guidance,
            )

    @torch.no_grad()
    def draw(self) -> None:
        """All forward passes of a rollout."""
        for rows in torch.arange(len(self.latents), device=self.latents.device).split(self.drawn):
            self.output(rows)

    def train(self) -> None:
        """All forward and backward passes of the updates, each to a scalar."""
        for rows in self.updates:
            for parameter in self.policy.trainable_parameters():
                parameter.grad = None
            for chunk in rows.split(self.chunk):
                self.output(chunk).float().square().mean().backward()

    def seconds(self) -> tuple[float, float]:
        """What drawing and training take."""
        device = self.latents.device
        return timed(self.draw, device), timed(self.train, device)

    def flops(self) -> tuple[int, int]:
        """Floating point operations of drawing and of training."""
        counts = []
        for work in (self.draw, self.train):
            with FlopCounterMode(display=False) as counter:
                work()
            counts.append(counter.get_total_flops())
        return counts[0], counts[1]
