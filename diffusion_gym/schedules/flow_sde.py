"""The maths of one denoising step of a flow-matching model: Flow-GRPO's stochastic transition.

Flow-GRPO (arXiv 2505.05470; its official code's ``sd3_sde_with_logprob.py``) samples a stochastic
differential equation with the same distribution at every noise level as the flow's own ODE
(`diffusion_gym.schedules.flow`). ``i`` counts in sampling order:

===========================  =========================================================
``latents``                  x_i, the latent before step i
``model_output``             the velocity v that the denoiser predicts for (x_i, t_i)
``sigmas``                   σ_0 … σ_T, falling from 1 to 0; t_i = N σ_i
``eta``                      a, the noise level; the authors' is 0.7
``step.predicted_clean``     x̂0 = x_i − σ_i v
``step.mean``, ``step.std``  mean and deviation of N(mean, std² I), the law of x_{i+1}
===========================  =========================================================
"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_gym.schedules.base import check_noise_scale
from diffusion_gym.schedules.flow import FlowSchedule

#: Noise levels that differ from 1 by less than this are 1, but for rounding.
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FlowSDESchedule(FlowSchedule):
    """T steps of Flow-GRPO's stochastic differential equation; ``eta`` is its noise level a."""

    sampler: ClassVar[str] = "flow_sde"
    published_eta: ClassVar[float] = 0.7

    @staticmethod
    def coefficients(sigmas: Tensor, noise_level: float) -> Tensor:
        """See `flow_coefficients`."""
        return flow_coefficients(sigmas, noise_level)


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
