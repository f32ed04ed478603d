"""The bare network, on the same batches and pairs as a round: what cannot be saved."""

from collections.abc import Callable, Sequence
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
    def draw(self, at_once: int) -> None:
        """All forward passes of a rollout.

        Args:
            at_once: Images that are drawn together.
        """
        for rows in self._drawn(at_once):
            self.output(rows)

    def train(self, at_once: int | None = None) -> None:
        """All forward and backward passes of the updates, each to a scalar.

        Args:
            at_once: Pairs that go through the network together; by default as many as the agent's.
        """
        for batches in self._trained(at_once or self.chunk):
            self._backward(batches)

    def train_by_step(self, at_once: int | None = None) -> None:
        """The same as the field's loops have it: some images at one step of theirs at a time.

        As many updates, each on all trained steps of its own images, as the released code of DDPO
        and of those that came after it accumulates its gradients.

        Args:
            at_once: Images that go through the network together; by default all of an update's.
        """
        for batches in self._trained_by_step(at_once):
            self._backward(batches)

    def warm_up(self, at_once: int) -> None:
        """A pass of every size that the others have: libraries choose kernels, compilers compile.

        Args:
            at_once: That of `usual_seconds`.
        """
        drawn = (*self._drawn(self.drawn), *self._drawn(at_once))
        with torch.no_grad():
            for rows in {len(rows): rows for rows in drawn}.values():
                self.output(rows)
        orders = (self._trained(self.chunk), self._trained(at_once))
        by_step = (self._trained_by_step(None), self._trained_by_step(at_once))
        updates = [update for order in (*orders, *by_step) for update in order]
        self._backward(list({len(rows): rows for each in updates for rows in each}.values()))

    def _drawn(self, at_once: int) -> list[Tensor]:
        """The rows of every pass of a rollout."""
        images = len(self.embedding.tokens)
        rows = torch.arange(len(self.latents), device=self.latents.device)
        return [step for batch in rows.view(-1, images).split(at_once, dim=1) for step in batch]

    def _trained(self, at_once: int) -> list[Sequence[Tensor]]:
        """The rows of every pass of the updates, by update."""
        return [rows.split(at_once) for rows in self.updates if len(rows)]

    def _trained_by_step(self, at_once: int | None) -> list[Sequence[Tensor]]:
        """The same as `train_by_step` has them."""
        count, images = len(self.updates), len(self.embedding.tokens)
        steps = torch.cat(self.updates).div(images, rounding_mode="floor").unique()
        updates = torch.tensor_split(torch.arange(images, device=steps.device), count)
        return [
            [step * images + batch for batch in update.split(at_once or images) for step in steps]
            for update in updates
        ]

    def _backward(self, batches: Sequence[Tensor]) -> None:
        """One update's passes, batch by batch."""
        for parameter in self.policy.trainable_parameters():
            parameter.grad = None
        for rows in batches:
            self.output(rows).float().square().mean().backward()

    def seconds(self) -> tuple[float, float]:
        """What drawing and training take."""
        device = self.latents.device
        return timed(lambda: self.draw(self.drawn), device), timed(self.train, device)

    def usual_seconds(self, at_once: int) -> dict[str, float]:
        """What they take as the field's loops have it, and with one difference less each.

        Args:
            at_once: Images that those loops have in a batch.

        Returns:
            ``usual_rollout`` and ``usual_update``; ``usual_update_whole``, with all of an update's
            images in a batch, but still of one step; ``usual_update_pairs``, with batches as small,
            but of pairs of image and step from the whole round.
        """
        work: dict[str, Callable[[], object]] = {
            "usual_rollout": lambda: self.draw(at_once),
            "usual_update": lambda: self.train_by_step(at_once),
            "usual_update_whole": self.train_by_step,
            "usual_update_pairs": lambda: self.train(at_once),
        }
        return {part: timed(passes, self.latents.device) for part, passes in work.items()}

    def flops(self) -> tuple[int, int]:
        """Floating point operations of drawing and of training.

        Every row takes as many: they are counted on one pass of each kind.
        """
        rows = self._trained(self.chunk)[0][0]
        counts = []
        passes: tuple[Callable[[], object], ...] = (
            torch.no_grad()(lambda: self.output(rows)),
            lambda: self._backward([rows]),
        )
        for work in passes:
            # What a compiler has fused cannot be seen.
            with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as count:
                work()
            counts.append(count.get_total_flops())
        totals = (len(self.latents), sum(map(len, self.updates)))
        drawing, training = (
            n * total // len(rows) for n, total in zip(counts, totals, strict=True)
        )
        return drawing, training
