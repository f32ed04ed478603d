r"""The maths of one denoising step: DDIM with noise, seen as a Gaussian policy's transition.

Notation, following DDIM (arXiv 2010.02502, formulas 12 and 16); ``i`` counts in sampling order:

===========================  =========================================================
``latents``                  x_i, the latent before step ``i``
``model_output``             the denoiser's output for (x_i, t_i): ε, v or x̂0
``alpha_bar``                ᾱ = ``alphas_cumprod[t_i]``
``alpha_bar_previous``       ᾱ' = ``alphas_cumprod[t_{i+1}]``, or after the last the final ᾱ
``step.predicted_clean``     x̂0, "predicted x_0"
``step.mean``, ``step.std``  μ and σ of N(μ, σ² I), the law of x_{i+1}
===========================  =========================================================
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.base import (
    Schedule,
    check_noise_scale,
    stochastic_steps,
    windowed,
)
from diffusion_gym.schedules.diffusers_config import (
    Prediction,
    as_ddim,
    check_signal,
    sampling_timesteps,
    supported_prediction,
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DDIMSchedule(Schedule):
    """T steps of DDIM with noise, built with `from_scheduler`.

    Attributes:
        timesteps: ``[T]`` int64, in sampling order: the first is the noisiest.
        eta: Noise scale; 0 is deterministic DDIM, 1 the DDPM posterior variance.
        num_train_timesteps: Length N of the training schedule.
        window: The only steps that have noise; None: all that η gives some.
        prediction: What the denoiser's output means.
        clip_range: Bound on x̂0, or None.
    """

    sampler: ClassVar[str] = "ddim"

    # The columns of the table: √ᾱ, √(1−ᾱ), √ᾱ', √(1−ᾱ'−σ²), σ.
    prediction: Prediction
    clip_range: float | None
    _training_alpha_bar: Tensor  # ᾱ of the whole training schedule, [N]

    @classmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        num_inference_steps: int,
        eta: float = 1.0,
        window: Sequence[int] | None = None,
    ) -> "DDIMSchedule":
        """Reads a diffusers scheduler's configuration; the scheduler itself is left untouched.

        Args:
            scheduler: A DDIMScheduler, or one that ``DDIMScheduler.from_config`` can convert.
            num_inference_steps: T, the number of denoising steps.
            eta: Noise scale η ≥ 0.
            window: The only steps that have noise; None: all that η gives some.

        Returns:
            The schedule, on the CPU.

        Raises:
            InvalidInputError: For a scheduler of another family, an unsupported option in its
                configuration, or T, η or a window that it cannot do.
        """
        ddim = as_ddim(scheduler)
        prediction = supported_prediction(ddim.config)
        timesteps = sampling_timesteps(ddim, num_inference_steps)
        training_alpha_bar = ddim.alphas_cumprod.float()
        alpha_bar = training_alpha_bar[timesteps]
        # diffusers takes t_i - N // T for t_{i+1}, which it is only where timesteps are evenly
        # spaced; elsewhere the noise that a step leaves would not be what the next one expects.
        alpha_bar_previous = torch.cat([alpha_bar[1:], ddim.final_alpha_cumprod.float().view(1)])
        check_signal(alpha_bar, timesteps, prediction)
        table = partial(step_coefficients, alpha_bar, alpha_bar_previous)
        coefficients, window = windowed(table, eta, window)
        return cls(
            timesteps=timesteps,
            eta=float(eta),
            num_train_timesteps=ddim.config.num_train_timesteps,
            window=window,
            _coefficients=coefficients,
            _stochastic_steps=stochastic_steps(coefficients),
            prediction=prediction,
            clip_range=float(ddim.config.clip_sample_range) if ddim.config.clip_sample else None,
            _training_alpha_bar=training_alpha_bar,
        )

    @property
    def alpha_bar(self) -> Tensor:
        """``[T]`` float32, ᾱ of every step: the signal's share of the latent's variance."""
        return self._coefficients[:, 0].square()

    @property
    def velocity_scale(self) -> Tensor:
        """``|∂v/∂f|``: 1/√ᾱ for ε, 1/√(1−ᾱ) for x̂0 and 1 for v (arXiv 2202.00512, appendix D)."""
        sqrt_alpha, sqrt_beta = self._coefficients[:, 0], self._coefficients[:, 1]
        if self.prediction == "epsilon":
            return 1 / sqrt_alpha
        return torch.ones_like(sqrt_beta) if self.prediction == "v_prediction" else 1 / sqrt_beta

    def _output_gain(self) -> Tensor:
        sqrt_alpha, sqrt_beta, sqrt_alpha_previous, direction, _ = self._coefficients.T
        # Of v; what else a denoiser may predict differs from it by a factor.
        of_velocity = direction * sqrt_alpha - sqrt_alpha_previous * sqrt_beta
        gain: Tensor = of_velocity * self.velocity_scale
        return gain

    @property
    def max_timestep(self) -> float:
        """N − 1: timesteps count from 0."""
        return float(self.num_train_timesteps - 1)

    def _extra_repr(self) -> str:
        return f"prediction={self.prediction!r}, clip_range={self.clip_range}, "

    def _mean_and_clean(
        self, output: Tensor, x: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        sqrt_alpha, sqrt_beta, sqrt_alpha_previous, direction, _ = coefficients

        # 1. Predicted clean latent x̂0 and noise ε (formula 12; v: arXiv 2202.00512, appendix D).
        clean = self._clean(output, x, sqrt_alpha, sqrt_beta)
        if self.prediction == "epsilon":
            noise = output
        elif self.prediction == "v_prediction":
            noise = sqrt_alpha * output + sqrt_beta * x
        else:
            noise = (x - sqrt_alpha * output) / sqrt_beta

        # 2. Clip x̂0; like diffusers, ε keeps the unclipped prediction.
        if self.clip_range is not None:
            clean = clean.clamp(-self.clip_range, self.clip_range)

        # 3. μ = √ᾱ' x̂0 + √(1−ᾱ'−σ²) ε (formula 12 without its random noise).
        return sqrt_alpha_previous * clean + direction * noise, clean

    @property
    def training_timesteps(self) -> Tensor:
        """Whole numbers from 0 to N − 1 that leave some noise, and some signal where it is ε."""
        known = self._training_alpha_bar < 1
        if self.prediction == "epsilon":
            known &= self._training_alpha_bar > 0
        return known.nonzero()[:, 0]

    def _signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._training_alpha_bar[timesteps.long()]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def _clean(self, output: Tensor, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return (x - noise * output) / signal
        return signal * x - noise * output if self.prediction == "v_prediction" else output


def step_coefficients(alpha_bar: Tensor, alpha_bar_previous: Tensor, eta: float) -> Tensor:
    """The coefficients of every step of a DDIM chain (arXiv 2010.02502, formulas 12 and 16).

    σ² = η² · (1−ᾱ')/(1−ᾱ) · (1 − ᾱ/ᾱ').

    Args:
        alpha_bar: ᾱ of every step, ``[T]``.
        alpha_bar_previous: ᾱ' of every step, ``[T]``.
        eta: Noise scale η.

    Returns:
        ``[T, 5]``: √ᾱ, √(1−ᾱ), √ᾱ', √(1−ᾱ'−σ²), σ.

    Raises:
        InvalidInputError: If η is negative, not finite, or so large that 1−ᾱ'−σ² < 0.
    """
    check_noise_scale(eta)
    # The order of operations is that of diffusers, so that float32 rounds as it does there.
    base = (1 - alpha_bar_previous) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_previous)
    std = eta * base.clamp(min=0).sqrt()
    remaining = 1 - alpha_bar_previous - std**2
    if bool((remaining < -1e-6).any()):
        largest = ((1 - alpha_bar_previous) / base)[base > 0].min().sqrt().item()
        raise InvalidInputError(
            f"expected eta ≤ {largest:.4g}, the most noise that this schedule's steps can carry, "
            f"got {eta}"
        )
    return torch.stack(
        [
            alpha_bar.sqrt(),
            (1 - alpha_bar).sqrt(),
            alpha_bar_previous.sqrt(),
            remaining.clamp(min=0).sqrt(),
            std,
        ],
        dim=1,
    )
