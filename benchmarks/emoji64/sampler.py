"""Draws pictures with a model, as the environment's reference policy does."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_gym.models import Denoiser, DiffusionModel, guided_prediction
from diffusion_gym.schedules.ddim import DDIMSchedule

SAMPLE_BATCH = 64


@dataclass(frozen=True)
class Sampler:
    """A model with a denoiser of its own."""

    model: DiffusionModel
    denoiser: Denoiser

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], *, guidance: float, steps: int, seed: int = 0) -> Tensor:
        """Draws one picture per prompt by stochastic DDIM (eta 1).

        Args:
            prompts: B prompts.
            guidance: Classifier-free guidance scale.
            steps: Number of denoising steps.
            seed: Seed of the noise; the same on every device.

        Returns:
            ``[B, 3, H, W]`` in [0, 1].
        """
        schedule = DDIMSchedule.from_scheduler(self.model.scheduler, steps, eta=1.0)
        schedule = schedule.to(self.model.device)
        generator = torch.Generator().manual_seed(seed)
        chunks = [
            self._draw_chunk(prompts[start : start + SAMPLE_BATCH], guidance, schedule, generator)
            for start in range(0, len(prompts), SAMPLE_BATCH)
        ]
        return torch.cat(chunks)

    def _draw_chunk(
        self,
        prompts: Sequence[str],
        guidance: float,
        schedule: DDIMSchedule,
        generator: torch.Generator,
    ) -> Tensor:
        embedding = self.model.encode(prompts)
        shape = (len(prompts), *self.model.latent_shape)
        latents = torch.randn(shape, generator=generator).to(self.model.device)
        for index, timestep in enumerate(schedule.timesteps):
            output = guided_prediction(
                self.denoiser,
                latents,
                timestep.expand(len(prompts)),
                embedding,
                null_embedding=self.model.null_embedding,
                guidance=guidance,
            )
            step = schedule.transition(output, latents, index)
            latents = schedule.sample(step, generator=generator)
        return self.model.decode(latents)
