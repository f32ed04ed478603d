"""What `DiffusionPPO` is told, beside its policy and its environment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diffusion_gym.checks import (
    Checked,
    Count,
    NotNegative,
    Positive,
    RateOrSchedule,
    checked,
)
from diffusion_gym.errors import InvalidInputError, first_line


@dataclass(frozen=True)
class PPOConfig(Checked):
    """Rounds, advantages and updates of PPO on denoising steps (DDPO, arXiv 2305.13301).

    A round draws ``batches_per_round`` batches of ``env.num_envs`` images, then makes
    ``updates_per_round`` optimiser steps over all their (image, step) pairs, ``n_epochs`` times.
    """

    samples_per_prompt: Count = 8
    """Images of one prompt in a batch; divides the number of images drawn at once, and is a
    multiple of B²-DiffuRL's branches."""

    batches_per_round: Count = 1
    """Batches drawn before each round of updates."""

    updates_per_round: Count = 4
    """Optimiser steps per epoch of a round."""

    n_epochs: Count = 1
    """Passes over each round."""

    batch_size: Count = 160
    """(Image, step) pairs per forward and backward pass: an update accumulates as many passes as
    it needs, so this is a matter of memory and speed alone."""

    learning_rate: RateOrSchedule = 2e-4
    """AdamW's rate."""

    clip_range: RateOrSchedule = 2e-3
    """PPO's ε, on the ratio of the log-probabilities as the policy reduces them."""

    clip_by_noise: bool = False
    """Scale ε in every step by the noise of its gradient, g_i / median g: a given change of the
    denoiser's output moves the log-probability of step i by that much."""

    advantage: Literal["group", "prompt"] = "group"
    """Baseline: over the round's images of a prompt, or DDPO's running statistics per prompt."""

    statistics_buffer_size: Count = 32
    """Rewards remembered per prompt by the running statistics."""

    statistics_min_count: Count = 16
    """Rewards, or images of the round where steps are standardised, that a prompt needs for
    statistics of its own; those of the whole round until then."""

    advantage_clip: Positive = 5.0
    """Bound on the absolute advantage."""

    standardise_steps: Literal["none", "unit_variance", "scale", "center"] = "none"
    """Of the advantages of single steps, over the steps that are trained: divided by their
    deviation over the round (unit_variance) or over their prompt (scale), or also less the mean
    (center, CoCA's)."""

    kl_coef: NotNegative = 0.0
    """Weight of the KL divergence to the base model."""

    max_grad_norm: Positive = 1.0
    """Bound on the gradient's norm."""

    def __post_init__(self) -> None:
        """Checks every field, and that schedules give numbers.

        Raises:
            InvalidInputError: A value is of another type or outside its range.
        """
        super().__post_init__()
        for name in ("learning_rate", "clip_range"):
            schedule = getattr(self, name)
            if callable(schedule):
                _check_schedule(name, schedule)


def _check_schedule(name: str, schedule: Callable[[float], float]) -> None:
    """Refuses what is no function from the remaining progress to a number."""
    try:
        start = schedule(1.0)
    except Exception as error:
        raise InvalidInputError(
            f"expected {name} as a number or a function of the remaining progress (1 to 0), got "
            f"one that raises {type(error).__name__}: {first_line(error)}"
        ) from error
    checked(f"the start of {name}", start, NotNegative)  # a warm-up may begin at 0
