"""The reward shapings that the command line offers, each with its published defaults."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gymnasium.vector import VectorEnv

from diffusion_gym.errors import unknown_name
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CoCAReward,
    SparseReward,
    UniformCreditReward,
)

BRANCHES = 5
B2_START = 0.7
"""Share of the steps that B² trains first: 14 of 20, as released."""

B2_HISTORY = 8
"""Earlier rounds that B² compares a reward with, as released."""

COCA_WINDOWS = 10
"""CoCA's windows of 5 in 50 steps, kept as a number of windows where it divides T."""

Env = VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class Course:
    """How long a run is, over which B²'s trained suffix grows.

    Attributes:
        rounds: Rounds of the run; B²-DiffuRL's stages.
        batches_per_round: Batches in each, which `B2DiffuRLReward` counts as stages.
        b2_start: Trained steps in the first round; None is as released.
    """

    rounds: int
    batches_per_round: int = 1
    b2_start: int | None = None


def shape_rewards(env: Env, shaping: str, course: Course) -> Env:
    """Wraps a vector environment.

    Args:
        env: The environment.
        shaping: A key of `SHAPINGS`.
        course: The run's length.

    Raises:
        InvalidInputError: The shaping is unknown or cannot be had in this environment.
    """
    if shaping not in SHAPINGS:
        raise unknown_name("shaping", shaping, SHAPINGS)
    return SHAPINGS[shaping](env, course)


def _coca(env: Env, course: Course) -> Env:
    steps = env.unwrapped.schedule.num_steps  # type: ignore[attr-defined]
    windows = COCA_WINDOWS if steps % COCA_WINDOWS == 0 else steps
    return CoCAReward(env, windows=windows)


def _b2(env: Env, course: Course) -> Env:
    """The released schedule, over the whole run: from 0.7 T trained steps to T."""
    steps = env.unwrapped.schedule.num_steps  # type: ignore[attr-defined]
    start = round(B2_START * steps) if course.b2_start is None else course.b2_start
    batches = course.batches_per_round
    return B2DiffuRLReward(
        env,
        branches=BRANCHES,
        schedule=(start, course.rounds * batches),
        history=B2_HISTORY * batches,
    )


SHAPINGS: dict[str, Callable[[Env, Course], Env]] = {
    "sparse": lambda env, course: SparseReward(env),
    "uniform": lambda env, course: UniformCreditReward(env),
    "coca": _coca,
    "b2": _b2,
    "b2+coca": lambda env, course: _coca(_b2(env, course), course),
}
