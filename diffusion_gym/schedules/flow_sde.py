"""The maths of one denoising step of a flow-matching model: Flow-GRPO's stochastic transition.

A rectified flow (arXiv 2209.03003; Stable Diffusion 3, arXiv 2403.03206) has the noisy latents
x_σ = (1−σ) x̂0 + σ ε and a denoiser that predicts the velocity v = ε − x̂0. Its own sampler is an
ordinary differential equation, dx = v dσ, which has no noise and hence no policy gradient.
Flow-GRPO (arXiv 2505.05470; its official code's ``sd3_sde_with_logprob.py``) samples a stochastic
one with the same distribution at every noise level. ``i`` counts in sampling order:

===========================  =========================================================
``latents``                  x_i, the latent before step ``i``
``model_output``             the velocity v that the denoiser predicts for (x_i, t_i)
``sigmas``                   σ_0 … σ_T, falling from 1 to 0; t_i = N σ_i
``eta``                      a, the noise level; the authors' is 0.7
``step.predicted_clean``     x̂0 = x_i − σ_i v
``step.mean``, ``step.std``  mean and deviation of N(mean, std² I), the law of x_{i+1}
===========================  =========================================================
"""

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_gym.schedules.base import Schedule, check_noise_scale, stochastic_steps
from diffusion_gym.schedules.diffusers_config import flow_noise_levels

#: Noise levels that differ from 1 by less than this are 1, but for rounding.
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FlowSDESchedule(Schedule):
    """T steps of Flow-GRPO's stochastic differential equation, built with `from_scheduler`.

    Attributes:
        timesteps: ``[T]`` float32, in sampling order: the first is the noisiest.
        eta: Flow-GRPO's noise level a; 0 is the flow's own Euler sampler.
        num_train_timesteps: Number N of timesteps of the training schedule; t = N σ.
    """

    sampler: ClassVar[str] = "flow_sde"

    # The columns of the table: σ, the factors of x and of v in the mean, the deviation.

    @classmethod
    def from_scheduler(
        cls, scheduler: Any, num_inference_steps: int, eta: float = 0.7
    ) -> "FlowSDESchedule":
        """Reads a diffusers scheduler's noise levels; the scheduler itself is left untouched.

        Args:
            scheduler: A FlowMatchEulerDiscreteScheduler.
            num_inference_steps: T, the number of denoising steps.
            eta: Noise level a ≥ 0.

        Returns:
            The schedule, on the CPU.

        Raises:
            InvalidInputError: For a scheduler of another family, an unsupported option in its
                configuration, or T or η that it cannot do.
        """
        timesteps, sigmas = flow_noise_levels(scheduler, num_inference_steps)
        coefficients = flow_coefficients(sigmas, eta)
        return cls(
            timesteps=timesteps,
            eta=float(eta),
            num_train_timesteps=scheduler.config.num_train_timesteps,
            _coefficients=coefficients,
            _stochastic_steps=stochastic_steps(coefficients),
        )

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
        return of_latents * x + of_velocity * output, x - sigma * output


def flow_coefficients(sigmas: Tensor, noise_level: float) -> Tensor:
    """The coefficients of every step of Flow-GRPO's chain (arXiv 2505.05470).

    With Δ = σ_{i+1} − σ_i < 0 and the diffusion s = a √(σ/(1−σ)):

    mean = x (1 + s²/(2σ) Δ) + v (1 + s² (1−σ)/(2σ)) Δ,  std = s √(−Δ).

    The diffusion is infinite at σ = 1, where every chain starts. As in the official code, the
    first step has 1 − σ_1 in the place of 1 − σ_0 there, so that its deviation is a, whatever T.

    Args:
        sigmas: σ_0 … σ_T, ``[T+1]``.
        noise_level: a.

    Returns:
        ``[T, 4]`` float32: σ, the factor of x, the factor of v, std.

    Raises:
        InvalidInputError: If a is negative or not finite.
    """
    check_noise_scale(noise_level)
    levels = sigmas.double()
    sigma, step = levels[:-1], levels.diff()
    cleanness = 1 - torch.where(sigma > 1 - ROUNDING, levels[1], sigma)
    variance_rate = noise_level**2 * sigma / cleanness
    pull = variance_rate / (2 * sigma)
    columns = [
        sigma,
        1 + pull * step,
        (1 + pull * (1 - sigma)) * step,
        (variance_rate * -step).sqrt(),
    ]
    return torch.stack(columns, dim=1).float()
