"""What the denoising steps of every sampler share: a table of Gaussian transitions.

A step of a stochastic sampler is N(μ, σ² I) with a mean that is linear in the latent and the
denoiser's output. Samplers differ in the coefficients only: `DDIMSchedule` (DDIM) and
`FlowSDESchedule` fill the table, everything that follows from it is here.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from diffusion_gym.checks import whole_numbers
from diffusion_gym.errors import InvalidInputError, shown, unknown_name

Reduction = Literal["mean", "sum"]
"""How log-densities are brought together over the dimensions of a latent."""


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
class Schedule(abc.ABC):
    """T denoising steps as tensors, built with `from_scheduler`.

    The steps are the sampler's. Beside them a schedule knows the noise process that the model was
    trained on, at every training timestep t: x_t = a_t x0 + b_t ε, `add_noise`.

    Attributes:
        sampler: The sampler's name.
        timesteps: ``[T]``, in sampling order: the first is the noisiest.
        eta: Noise scale; 0 is the sampler's deterministic form.
        num_train_timesteps: Length N of the training schedule.
        window: The only steps that have noise, increasing; None: every step that the sampler gives
            some.
    """

    sampler: ClassVar[str]

    timesteps: Tensor
    eta: float
    num_train_timesteps: int
    window: tuple[int, ...] | None
    # One [T, K] table, σ in its last column: one gather per transition.
    _coefficients: Tensor
    _stochastic_steps: tuple[bool, ...]  # the mask for Python, to look at without a device sync

    @classmethod
    @abc.abstractmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        num_inference_steps: int,
        eta: float = ...,
        window: Sequence[int] | None = None,
    ) -> Self:
        """Reads a diffusers scheduler's configuration; the scheduler itself is left untouched."""

    @property
    def num_steps(self) -> int:
        """T, the number of denoising steps."""
        return len(self._stochastic_steps)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.timesteps.device

    @property
    def std(self) -> Tensor:
        """``[T]`` float32, σ of every step."""
        return self._coefficients[:, -1]

    @property
    def stochastic(self) -> Tensor:
        """``[T]`` bool, False where σ = 0: the step is deterministic."""
        return self.std > 0

    @property
    def gradient_scale(self) -> Tensor:
        """``[T]`` float32, g_i = C_i / σ_i; infinite where σ = 0.

        μ_i is linear in the denoiser's output f, with a factor ± C_i that the sampler's
        coefficients give. So ∇ log π_i = (C_i / σ_i) · ε_i · ∂f/∂θ with ε_i ~ N(0, I): an equal
        error of the output moves the log-density of step i by g_i, and where ∂f/∂θ is alike in all
        steps, g_i is the noise of their policy gradients. PCPO (arXiv 2509.25774) names this
        factor as the source of DDPO's disproportionate credit. Bounds on x̂0
        (``clip_sample``) are left out of account, and so is guidance, which is alike in all steps.
        """
        gain = self._output_gain().abs()
        return torch.where(self.stochastic, gain / self.std, torch.inf)

    @property
    @abc.abstractmethod
    def velocity_scale(self) -> Tensor:
        """``[T]`` float32, ``|∂v/∂f|``: by how much v changes with the denoiser's output f.

        1 where the output is a velocity. Errors of equal size of a v-prediction are these times
        smaller in f.
        """

    @abc.abstractmethod
    def _output_gain(self) -> Tensor:
        """``[T]``, the factor of the denoiser's output in μ."""

    @property
    def why_deterministic(self) -> str | None:
        """Why no step at all has noise, for messages; None where some step has."""
        if any(self._stochastic_steps):
            return None
        if self.eta == 0:
            return "eta is 0"
        return (
            f"with num_inference_steps={self.num_steps} the only step is the last, which adds no "
            "noise"
        )

    @property
    @abc.abstractmethod
    def max_timestep(self) -> float:
        """The largest timestep of the training schedule, whatever T is."""

    def to(self, device: torch.device | str) -> Self:
        """The same schedule with its tensors on another device."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **tensors)

    def __repr__(self) -> str:
        first, last = float(self.timesteps[0]), float(self.timesteps[-1])
        window = "" if self.window is None else f"window={list(self.window)}, "
        return (
            f"{type(self).__name__}(num_steps={self.num_steps}, eta={self.eta}, {window}"
            f"timesteps={first:g}…{last:g}, {self._extra_repr()}device={str(self.device)!r})"
        )

    def _extra_repr(self) -> str:
        return ""

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
        matches = values.float().unsqueeze(-1) == self.timesteps.float()
        found = matches.any(-1)
        if not bool(found.all()):
            raise InvalidInputError(
                f"expected timesteps of this schedule, {self.timesteps.tolist()}, "
                f"got {sorted(set(values[~found].tolist()))}"
            )
        index = matches.long().argmax(-1)
        return index if isinstance(timestep, Tensor) else int(index)

    def transition(
        self, model_output: Tensor, latents: Tensor, index: int | Tensor
    ) -> DenoisingStep:
        """The Gaussian of x_{i+1} given x_i and the denoiser's output, in float32.

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
        mean, clean = self._mean_and_clean(model_output.float(), latents.float(), coefficients)
        return DenoisingStep(
            mean=mean, std=coefficients[-1], predicted_clean=clean, stochastic=stochastic
        )

    @abc.abstractmethod
    def _mean_and_clean(
        self, output: Tensor, x: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """μ and x̂0, ``[B, C, h, w]``, of steps with coefficients ``[K, B or 1, 1, …]``."""

    # ------------------------------------------------------------------- the forward process

    @property
    @abc.abstractmethod
    def training_timesteps(self) -> Tensor:
        """``[N']``, increasing: the timesteps at which the model was trained to denoise.

        Without those at which nothing is noisy, or at which the denoiser's output does not
        determine x̂0.
        """

    @abc.abstractmethod
    def _signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and b_t of x_t = a_t x0 + b_t ε, float32 of the timesteps' shape."""

    @abc.abstractmethod
    def _clean(self, output: Tensor, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        """x̂0 from the denoiser's output for x_t = ``signal`` x0 + ``noise`` ε, no bound on it."""

    def noise_scale(self, timesteps: Tensor) -> Tensor:
        """b_t of x_t = a_t x0 + b_t ε, ``[B]`` float32: √(1−ᾱ_t), or a flow's σ_t.

        An error of x̂0 at a given x_t is b_t times that of the velocity v (arXiv 2202.00512 for
        v = √ᾱ ε − √(1−ᾱ) x0; for a flow's v = ε − x0 likewise), up to its sign.

        Args:
            timesteps: Training timesteps t, ``[B]``.
        """
        return self._signal_and_noise(timesteps)[1]

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = a_t x0 + b_t ε, ``[B, C, h, w]`` float32: what the model was trained to denoise.

        DDPM (arXiv 2006.11239, formula 4): a_t = √ᾱ_t, b_t = √(1−ᾱ_t). Rectified flow (arXiv
        2209.03003): a_t = 1−σ_t, b_t = σ_t = t/N.

        Args:
            clean: x0, ``[B, C, h, w]``.
            noise: ε, likewise.
            timesteps: Training timesteps t, ``[B]``; they need not be the sampler's.
        """
        signal, scale = self._rows(timesteps, clean.dim())
        return signal * clean.float() + scale * noise.float()

    def clean_at(self, model_output: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """x̂0, ``[B, C, h, w]`` float32, of the denoiser's output at any training timestep.

        At the sampler's own timesteps it is `transition`'s ``predicted_clean``, but that no
        ``clip_range`` bounds it: it is linear in the output.

        Args:
            model_output: The (guided) denoiser's output, ``[B, C, h, w]``.
            latents: x_t, likewise.
            timesteps: t, ``[B]``.
        """
        signal, scale = self._rows(timesteps, latents.dim())
        return self._clean(model_output.float(), latents.float(), signal, scale)

    def _rows(self, timesteps: Tensor, dims: int) -> tuple[Tensor, Tensor]:
        """a_t and b_t as ``[B, 1, …]``."""
        shape = (-1, *(1,) * (dims - 1))
        signal, noise = self._signal_and_noise(timesteps)
        return signal.view(shape), noise.view(shape)

    # ------------------------------------------------------------------------- the sampler

    def _gather(self, index: int | Tensor, batch: int, dims: int) -> tuple[Tensor, bool]:
        """Coefficients of a step as ``[K, B or 1, 1, …]``, and whether every row has σ > 0."""
        trailing = (1,) * (dims - 1)
        if not isinstance(index, Tensor):
            if not 0 <= index < self.num_steps:
                raise self._index_error(index)
            return self._coefficients[index].view(-1, 1, *trailing), self._stochastic_steps[index]
        if index.shape != (batch,):
            raise InvalidInputError(
                f"expected one step index per row, shape ({batch},), got {tuple(index.shape)}"
            )
        # On a GPU the range is left to the indexing kernel: reading it here would wait for it.
        if (
            index.device.type == "cpu"
            and batch
            and not 0 <= index.min() <= index.max() < self.num_steps
        ):
            raise self._index_error(index.tolist())
        width = self._coefficients.shape[1]
        rows = self._coefficients[index].T.reshape(width, batch, *trailing)
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
            reason = self.why_deterministic
            which = (
                f"deterministic steps of this schedule: {deterministic}"
                if reason is None
                else f"no step of this schedule has noise: {reason}"
            )
            raise InvalidInputError(f"a deterministic step (σ = 0) has no log-probability; {which}")
        standardised = (next_latents.detach().float() - step.mean) / step.std
        density = -0.5 * standardised.square() - step.std.log() - 0.5 * math.log(2 * math.pi)
        flat = density.flatten(1)
        return flat.mean(1) if reduction == "mean" else flat.sum(1)


def stochastic_steps(coefficients: Tensor) -> tuple[bool, ...]:
    """Which steps of a ``[T, K]`` table, σ in its last column, have σ > 0."""
    return tuple((coefficients[:, -1] > 0).tolist())


def windowed(
    table: Callable[[float], Tensor], eta: float, window: Sequence[int] | None
) -> tuple[Tensor, tuple[int, ...] | None]:
    """A table of coefficients with noise in some steps only, the others as if η were 0.

    MixGRPO (arXiv 2507.21802) samples so: stochastic steps in a window, an ODE elsewhere. A step
    without noise has no density, and is not trained on by what needs one.

    Args:
        table: Coefficients ``[T, K]`` for an η, σ in the last column.
        eta: η.
        window: The steps that shall have noise; None: all.

    Returns:
        The coefficients, and the window in increasing order.

    Raises:
        InvalidInputError: The window is empty or no list of steps, or one of its steps has no noise
            although η > 0.
    """
    noisy = table(eta)
    if window is None:
        return noisy, None
    last = len(noisy) - 1
    steps = sorted(set(whole_numbers("stochastic_steps", list(window)).tolist())) if window else []
    if not steps or steps[0] < 0 or steps[-1] > last:
        raise InvalidInputError(
            f"expected stochastic_steps as step indices from 0 to {last}, at least one of them, "
            f"got {shown(list(window))}"
        )
    silent = [step for step in steps if eta > 0 and noisy[step, -1] == 0]
    if silent:
        raise InvalidInputError(
            f"expected stochastic_steps that can have noise, got {silent}, where this sampler "
            "adds none whatever eta is"
        )
    chosen = torch.zeros(len(noisy), 1, dtype=torch.bool)
    chosen[steps] = True
    return torch.where(chosen, noisy, table(0.0)), tuple(steps)


def check_noise_scale(eta: float) -> None:
    """Refuses an η that is negative or not finite.

    Raises:
        InvalidInputError: For such an η.
    """
    if not (math.isfinite(eta) and eta >= 0):
        raise InvalidInputError(f"expected eta to be a finite number ≥ 0, got {eta}")
