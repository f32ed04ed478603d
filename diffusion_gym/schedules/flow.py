"""What the stochastic samplers of flow-matching models share.

A rectified flow (arXiv 2209.03003; Stable Diffusion 3, arXiv 2403.03206) has the noisy latents
x_σ = (1−σ) x̂0 + σ ε and a denoiser that predicts the velocity v = ε − x̂0. Its own sampler is an
ordinary differential equation, dx = v dσ, which has no noise and hence no policy gradient. Samplers
with noise differ in three coefficients a step: `FlowSDESchedule` and `FlowCPSSchedule` give them.
"""

import abc
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from diffusion_gym.schedules.base import Schedule, stochastic_steps, windowed
from diffusion_gym.schedules.diffusers_config import flow_noise_levels


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FlowSchedule(Schedule):
    """T stochastic steps of a flow-matching model, built with `from_scheduler`.

    Attributes:
        timesteps: ``[T]`` float32, in sampling order: the first is the noisiest.
        eta: Noise level; 0 is the flow's own Euler sampler.
        published_eta: The noise level that the sampler was published with.
        num_train_timesteps: Number N of timesteps of the training schedule; t = N σ.
        window: The only steps that have noise; None: all that η gives some.
    """

    published_eta: ClassVar[float]

    # The columns of the table: σ, the factors of x and of v in the mean, the deviation.

    @classmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        num_inference_steps: int,
        eta: float | None = None,
        window: Sequence[int] | None = None,
    ) -> Self:
        """Reads a diffusers scheduler's noise levels; the scheduler itself is left untouched.

        Args:
            scheduler: A FlowMatchEulerDiscreteScheduler.
            num_inference_steps: T, the number of denoising steps.
            eta: Noise level ≥ 0; None: the sampler's published one.
            window: The only steps that have noise; None: all that η gives some.

        Returns:
            The schedule, on the CPU.

        Raises:
            InvalidInputError: For a scheduler of another family, an unsupported option in its
                configuration, or T, η or a window that it cannot do.
        """
        eta = cls.published_eta if eta is None else eta
        timesteps, sigmas = flow_noise_levels(scheduler, num_inference_steps, cls.sampler)
        coefficients, window = windowed(partial(cls.coefficients, sigmas), eta, window)
        return cls(
            timesteps=timesteps,
            eta=float(eta),
            num_train_timesteps=scheduler.config.num_train_timesteps,
            window=window,
            _coefficients=coefficients,
            _stochastic_steps=stochastic_steps(coefficients),
        )

    @staticmethod
    @abc.abstractmethod
    def coefficients(sigmas: Tensor, noise_level: float) -> Tensor:
        """``[T, 4]`` float32: σ, the factor of x, the factor of v, std.

        Args:
            sigmas: σ_0 … σ_T, ``[T+1]``.
            noise_level: η.

        Raises:
            InvalidInputError: If the sampler has no such noise level.
        """

    @property
    def velocity_scale(self) -> Tensor:
        """Ones: the denoiser predicts the velocity."""
        return torch.ones_like(self.std)

    def _output_gain(self) -> Tensor:
        return self._coefficients[:, 2]

    @property
    def max_timestep(self) -> float:
        """N, at σ = 1."""
        return float(self.num_train_timesteps)

    def _mean_and_clean(
        self, output: Tensor, x: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        sigma, of_latents, of_velocity, _ = coefficients
        return of_latents * x + of_velocity * output, self._clean(output, x, 1 - sigma, sigma)

    @property
    def training_timesteps(self) -> Tensor:
        """1 … N, float32: σ = 1/N … 1."""
        return torch.arange(1.0, self.num_train_timesteps + 1, device=self.device)

    def _signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        sigma = timesteps.float() / self.num_train_timesteps
        return 1 - sigma, sigma

    def _clean(self, output: Tensor, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        del signal
        return x - noise * output
