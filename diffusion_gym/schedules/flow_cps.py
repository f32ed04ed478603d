"""Coefficient-preserving sampling of a flow-matching model: noise that leaves no residue.

Flow-CPS (arXiv 2509.05952; flow_grpo's ``sd3_sde_with_logprob.py``) replaces a part of the
*predicted* noise by fresh noise, so that x_{i+1} carries exactly as much noise as its noise level
says, whatever the steps' number. Flow-GRPO's stochastic differential equation, discretised, leaves
more than that, which a few steps do not remove. ``i`` counts in sampling order:

===========================  =========================================================
``latents``                  x_i, the latent before step i
``model_output``             the velocity v that the denoiser predicts for (x_i, t_i)
``sigmas``                   σ_0 … σ_T, falling from 1 to 0; t_i = N σ_i
``eta``                      η from 0 to 1; the released configurations have 0.8
``step.predicted_clean``     x̂0 = x_i − σ_i v
x̂1                           x_i + (1−σ_i) v, the predicted noise
``step.mean``, ``step.std``  mean and deviation of N(mean, std² I), the law of x_{i+1}
===========================  =========================================================

The last step, which ends at σ_T = 0, has no noise. The released code takes −‖x_{i+1} − mean‖² as
log-probability, without 1/(2 std²): that of the Gaussian, as here, times 2 std². Step weights
∝ std² (`diffusion_gym.wrappers.CreditReward`) have the same effect.
"""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.base import check_noise_scale
from diffusion_gym.schedules.flow import FlowSchedule


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FlowCPSSchedule(FlowSchedule):
    """T steps of coefficient-preserving sampling; ``eta`` is its noise level, at most 1."""

    sampler: ClassVar[str] = "flow_cps"
    published_eta: ClassVar[float] = 0.8

    @staticmethod
    def coefficients(sigmas: Tensor, noise_level: float) -> Tensor:
        """See `cps_coefficients`."""
        return cps_coefficients(sigmas, noise_level)


def cps_coefficients(sigmas: Tensor, noise_level: float) -> Tensor:
    """The coefficients of every step of coefficient-preserving sampling (arXiv 2509.05952).

    With σ' = σ_{i+1}, std = σ' sin(η π/2):

    mean = (1 − σ') x̂0 + √(σ'² − std²) x̂1 = (1 − σ') (x − σ v) + σ' cos(η π/2) (x + (1−σ) v).

    Args:
        sigmas: σ_0 … σ_T, ``[T+1]``.
        noise_level: η.

    Returns:
        ``[T, 4]`` float32: σ, the factor of x, the factor of v, std.

    Raises:
        InvalidInputError: If η is not from 0 to 1.
    """
    check_noise_scale(noise_level)
    if noise_level > 1:
        raise InvalidInputError(
            "expected eta from 0 to 1 for sampler='flow_cps', where 1 replaces all of the "
            f"predicted noise, got {noise_level}"
        )
    levels = sigmas.double()
    sigma, following = levels[:-1], levels[1:]
    angle = noise_level * math.pi / 2
    signal, kept = 1 - following, following * math.cos(angle)
    columns = [
        sigma,
        signal + kept,
        kept * (1 - sigma) - signal * sigma,
        following * math.sin(angle),
    ]
    return torch.stack(columns, dim=1).float()
