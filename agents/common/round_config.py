"""What every agent that trains in rounds of images is told, beside its policy and environment."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diffusion_gym.checks import Checked, Count, NotNegative, Positive, RateOrSchedule, checked
from diffusion_gym.errors import InvalidInputError, first_line


@dataclass(frozen=True)
class RoundConfig(Checked):
    """Rounds, advantages and updates.

    A round draws ``batches_per_round`` batches of ``env.num_envs`` images, then makes
    ``updates_per_round`` optimiser steps over all their pairs of an image and a noise level,
    ``n_epochs`` times. With N processes a batch is of N times ``env.num_envs`` images; all of this
    but ``batch_size`` is said of the whole.
    """

    samples_per_prompt: Count = 8
    """Images of one prompt in a batch; divides the number of images drawn at once, and is a
    multiple of B²-DiffuRL's branches."""

    batches_per_round: Count = 1
    """Batches drawn before each round of updates."""

    overlap_rewards: bool = False
    """Compute the rewards of a batch while the next one of the round is drawn: the same training,
    sooner where scoring waits for another machine or device. With wrappers that do not read
    rewards: not with B²-DiffuRL."""

    updates_per_round: Count = 4
    """Optimiser steps per epoch of a round."""

    n_epochs: Count = 1
    """Passes over each round."""

    batch_size: Count = 160
    """Pairs of an image and a step, or noise level, per forward and backward pass of one process:
    an update accumulates as many passes as it needs, so this is a matter of memory and speed
    alone."""

    learning_rate: RateOrSchedule = 2e-4
    """AdamW's rate."""

    advantage: Literal["group", "prompt"] = "group"
    """Baseline: over the round's images of a prompt, or DDPO's running statistics per prompt."""

    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = (
        "sum_then_normalize"
    )
    """Of a weighted sum of rewards: compare the sums, or normalise each reward's advantages by
    themselves, add them by their weights, and normalise that over the round (GDPO)."""

    statistics_buffer_size: Count = 32
    """Rewards remembered per prompt by the running statistics."""

    statistics_min_count: Count = 16
    """Rewards, or images of the round where steps are standardised, that a prompt needs for
    statistics of its own; those of the whole round until then."""

    advantage_clip: Positive = 5.0
    """Bound on the absolute advantage."""

    max_grad_norm: Positive = 1.0
    """Bound on the gradient's norm."""

    def __post_init__(self) -> None:
        """Checks every field, that schedules give numbers, and that there is something to overlap.

        Raises:
            InvalidInputError: A value is of another type or outside its range, or rewards of a
                single batch are to be overlapped.
        """
        super().__post_init__()
        if self.overlap_rewards and self.batches_per_round == 1:
            raise InvalidInputError(
                "overlap_rewards computes the rewards of a batch while the next one of the round "
                "is drawn: expected batches_per_round of at least 2, got 1"
            )
        for field in dataclasses.fields(self):
            schedule = getattr(self, field.name)
            if callable(schedule):
                _check_schedule(field.name, schedule)


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
