r"""The maths of one denoising step: DDIM with noise, seen as a Gaussian policy's transition.

Notation, following DDIM (arXiv 2010.02502, formulas 12 and 16); ``i`` counts in sampling order:

===========================  =========================================================
``latents``                  x_i, the latent before step ``i``
``model_output``             the denoiser's output for (x_i, t_i): ε, v or x̂0
``alpha_bar``                ᾱ = ``alphas_cumprod[t_i]``
``alpha_bar_previous``       ᾱ' = ``alphas_cumprod[t_i - N // T]``, or the final ᾱ
``step.predicted_clean``     x̂0, "predicted x_0"
``step.mean``, ``step.std``  μ and σ of N(μ, σ² I), the law of x_{i+1}
===========================  =========================================================
"""

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.scheduler_config import (
    Prediction,
    as_ddim,
    check_signal,
    sampling_timesteps,
    supported_prediction,
)

Reduction = Literal["mean", "sum"]


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingStep:
    """The Gaussian of one denoising step, N(mean, std² I).

    Attributes:
        mean: μ, ``[B, C, h, w]`` float32.
        std: σ, ``[B, 1, 1, 1]`` or ``[1, 1, 1, 1]`` float32.
        predicted_clean: x̂0, ``[B, C, h, w]`` float32.
        stochastic: False where some row has σ = 0; such a step has no density.
    """

    mean: Tensor
    std: Tensor
    predicted_clean: Tensor
    stochastic: bool = True


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DenoisingSchedule:
    """T denoising steps as tensors, built with `from_scheduler`.

    Attributes:
        timesteps: ``[T]`` int64, in sampling order: the first is the noisiest.
        std: ``[T]`` float32, σ of every step.
        stochastic: ``[T]`` bool, False where σ = 0: the step is deterministic.
        eta: Noise scale; 0 is deterministic DDIM, 1 the DDPM posterior variance.
        prediction: What the denoiser's output means.
        clip_range: Bound on x̂0, or None.
        num_train_timesteps: Length N of the training schedule.
    """

    timesteps: Tensor
    std: Tensor
    stochastic: Tensor
    eta: float
    prediction: Prediction
    clip_range: float | None
    num_train_timesteps: int
    # Per step √ᾱ, √(1−ᾱ), √ᾱ', √(1−ᾱ'−σ²), σ as one [T, 5] table: one gather per transition.
    _coefficients: Tensor
    _index_of_timestep: Tensor  # [N] int64, −1 where no step has that timestep
    _stochastic_steps: tuple[bool, ...]  # the mask for Python, to look at without a device sync

    @classmethod
    def from_scheduler(
        cls, scheduler: Any, num_inference_steps: int, eta: float = 1.0
    ) -> "DenoisingSchedule":
        """Reads a diffusers scheduler's configuration; the scheduler itself is left untouched.

        Args:
            scheduler: A DDIMScheduler, or one that ``DDIMScheduler.from_config`` can convert.
            num_inference_steps: T, the number of denoising steps.
            eta: Noise scale η ≥ 0.

        Returns:
            The schedule, on the CPU.

        Raises:
            InvalidInputError: For a scheduler of another family, an unsupported option in its
                configuration, or T or η that it cannot do.
        """
        ddim = as_ddim(scheduler)
        prediction = supported_prediction(ddim.config)
        timesteps = sampling_timesteps(ddim, num_inference_steps)
        previous = timesteps - ddim.config.num_train_timesteps // num_inference_steps
        alpha_bars = ddim.alphas_cumprod.float()
        alpha_bar = alpha_bars[timesteps]
        alpha_bar_previous = torch.where(
            previous >= 0, alpha_bars[previous.clamp(min=0)], ddim.final_alpha_cumprod.float()
        )
        check_signal(alpha_bar, timesteps, prediction)
        coefficients = step_coefficients(alpha_bar, alpha_bar_previous, eta)
        std = coefficients[:, -1].contiguous()
        index_of_timestep = torch.full((ddim.config.num_train_timesteps,), -1, dtype=torch.int64)
        index_of_timestep[timesteps] = torch.arange(num_inference_steps)
        return cls(
            timesteps=timesteps,
            std=std,
            stochastic=std > 0,
            eta=float(eta),
            prediction=prediction,
            clip_range=float(ddim.config.clip_sample_range) if ddim.config.clip_sample else None,
            num_train_timesteps=ddim.config.num_train_timesteps,
            _coefficients=coefficients,
            _index_of_timestep=index_of_timestep,
            _stochastic_steps=tuple((std > 0).tolist()),
        )

    @property
    def num_steps(self) -> int:
        """T, the number of denoising steps."""
        return len(self._stochastic_steps)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.timesteps.device

    def to(self, device: torch.device | str) -> "DenoisingSchedule":
        """The same schedule with its tensors on another device."""
        return dataclasses.replace(
            self,
            timesteps=self.timesteps.to(device),
            std=self.std.to(device),
            stochastic=self.stochastic.to(device),
            _coefficients=self._coefficients.to(device),
            _index_of_timestep=self._index_of_timestep.to(device),
        )

    def __repr__(self) -> str:
        first, last = int(self.timesteps[0]), int(self.timesteps[-1])
        return (
            f"DenoisingSchedule(num_steps={self.num_steps}, eta={self.eta}, "
            f"timesteps={first}…{last}, prediction={self.prediction!r}, "
            f"clip_range={self.clip_range}, device={str(self.device)!r})"
        )

    def index_of(self, timestep: int | float | Tensor) -> Any:
        """The step index of one timestep or of each in a tensor.

        Args:
            timestep: A number, or a tensor of any shape and dtype.

        Returns:
            An ``int`` for a number, an int64 tensor of the same shape for a tensor.

        Raises:
            InvalidInputError: If a timestep is not one of `timesteps`.
        """
        values = torch.as_tensor(timestep, device=self.device)
        rounded = values.long()
        inside = (rounded == values) & (rounded >= 0) & (rounded < self.num_train_timesteps)
        index = self._index_of_timestep[rounded.clamp(0, self.num_train_timesteps - 1)]
        index = torch.where(inside, index, -1)
        if bool((index < 0).any()):
            raise InvalidInputError(
                f"expected timesteps of this schedule, {self.timesteps.tolist()}, "
                f"got {sorted(set(values[index < 0].tolist()))}"
            )
        return index if isinstance(timestep, Tensor) else int(index)

    def transition(
        self, model_output: Tensor, latents: Tensor, index: int | Tensor
    ) -> DenoisingStep:
        """The Gaussian of step ``index`` (DDIM, formulas 12 and 16), in float32.

        Args:
            model_output: The (guided) denoiser's output, ``[B, C, h, w]``.
            latents: x_i, ``[B, C, h, w]``.
            index: The step, 0 ≤ index < T, or one per row as an int64 tensor ``[B]``.

        Returns:
            Mean, standard deviation and predicted clean latent of the step.

        Raises:
            InvalidInputError: If the shapes differ or the index is out of range.
        """
        if model_output.shape != latents.shape:
            raise InvalidInputError(
                "expected a model output of the latents' shape "
                f"{tuple(latents.shape)}, got {tuple(model_output.shape)}"
            )
        coefficients, stochastic = self._gather(index, latents.shape[0], latents.dim())
        sqrt_alpha, sqrt_beta, sqrt_alpha_previous, direction, std = coefficients
        output, x = model_output.float(), latents.float()

        # 1. Predicted clean latent x̂0 and noise ε (formula 12; v: arXiv 2202.00512, appendix D).
        if self.prediction == "epsilon":
            clean = (x - sqrt_beta * output) / sqrt_alpha
            noise = output
        elif self.prediction == "v_prediction":
            clean = sqrt_alpha * x - sqrt_beta * output
            noise = sqrt_alpha * output + sqrt_beta * x
        else:
            clean = output
            noise = (x - sqrt_alpha * output) / sqrt_beta

        # 2. Clip x̂0; like diffusers, ε keeps the unclipped prediction.
        if self.clip_range is not None:
            clean = clean.clamp(-self.clip_range, self.clip_range)

        # 3. μ = √ᾱ' x̂0 + √(1−ᾱ'−σ²) ε (formula 12 without its random noise).
        mean = sqrt_alpha_previous * clean + direction * noise
        return DenoisingStep(mean=mean, std=std, predicted_clean=clean, stochastic=stochastic)

    def _gather(self, index: int | Tensor, batch: int, dims: int) -> tuple[Tensor, bool]:
        """Coefficients of a step as ``[5, B or 1, 1, …]``, and whether every row has σ > 0."""
        trailing = (1,) * (dims - 1)
        if not isinstance(index, Tensor):
            if not 0 <= index < self.num_steps:
                raise self._index_error(index)
            row = self._coefficients[index]
            return row.view(5, 1, *trailing), self._stochastic_steps[index]
        if index.shape != (batch,):
            raise InvalidInputError(
                f"expected one step index per row, shape ({batch},), got {tuple(index.shape)}"
            )
        # On a GPU the range is left to the indexing kernel: reading it here would wait for it.
        if (
            index.device.type == "cpu"
            and batch
            and not 0 <= index.min() <= index.max() < len(self._stochastic_steps)
        ):
            raise self._index_error(index.tolist())
        rows = self._coefficients[index].T.reshape(5, batch, *trailing)
        if all(self._stochastic_steps):
            return rows, True
        return rows, bool(self.stochastic[index].all())

    def _index_error(self, index: object) -> InvalidInputError:
        return InvalidInputError(
            f"expected step indices from 0 to {self.num_steps - 1}, got {index}"
        )

    def sample(
        self,
        step: DenoisingStep,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Draws x_{i+1} = μ + σ · noise, ``[B, C, h, w]`` float32.

        Args:
            step: The step's Gaussian.
            generator: Source of the noise, drawn on the generator's device; None is torch's own.
            noise: The standard normal noise itself, instead of a generator.

        Raises:
            InvalidInputError: If both a generator and noise are given.
        """
        if noise is None:
            device = step.mean.device if generator is None else generator.device
            noise = torch.randn(step.mean.shape, generator=generator, device=device)
        elif generator is not None:
            raise InvalidInputError("expected a generator or noise, got both")
        return step.mean + step.std * noise.to(step.mean)

    def log_prob(
        self, next_latents: Tensor, step: DenoisingStep, reduction: Reduction = "mean"
    ) -> Tensor:
        """Log-density of ``next_latents`` under the step's Gaussian, ``[B]`` float32.

        The latents are the action that was taken, hence a constant: gradients flow through the
        step only.

        Args:
            next_latents: x_{i+1}, ``[B, C, h, w]``.
            step: The step's Gaussian.
            reduction: "mean" over the latent's dimensions (DDPO's convention, arXiv 2305.13301;
                clip ranges of 1e-4 … 5e-3 belong to it), or "sum" (the true likelihood ratio).

        Raises:
            InvalidInputError: If a step is deterministic (σ = 0), the shapes differ or the
                reduction is unknown.
        """
        if reduction not in ("mean", "sum"):
            raise unknown_name("reduction", reduction, ("mean", "sum"))
        if next_latents.shape != step.mean.shape:
            raise InvalidInputError(
                f"expected next latents of the mean's shape {tuple(step.mean.shape)}, "
                f"got {tuple(next_latents.shape)}"
            )
        if not step.stochastic:
            deterministic = [i for i, noisy in enumerate(self._stochastic_steps) if not noisy]
            raise InvalidInputError(
                "a deterministic step (σ = 0) has no log-probability; "
                f"deterministic steps of this schedule (eta={self.eta}): {deterministic}"
            )
        standardised = (next_latents.detach().float() - step.mean) / step.std
        density = -0.5 * standardised.square() - step.std.log() - 0.5 * math.log(2 * math.pi)
        flat = density.flatten(1)
        return flat.mean(1) if reduction == "mean" else flat.sum(1)


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
    if not (math.isfinite(eta) and eta >= 0):
        raise InvalidInputError(f"expected eta to be a finite number ≥ 0, got {eta}")
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
