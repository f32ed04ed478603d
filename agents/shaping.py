"""The reward shapings that the command line offers, each with its published defaults."""

from collections.abc import Callable
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
COCA_WINDOWS = 10
"""CoCA's windows of 5 in 50 steps, kept as a number of windows where it divides T."""

Env = VectorEnv[Any, Any, Any]


def shape_rewards(env: Env, shaping: str, rounds: int) -> Env:
    """Wraps a vector environment.

    Args:
        env: The environment.
        shaping: A key of `SHAPINGS`.
        rounds: Rounds of the run, over which B²'s trained suffix grows.

    Raises:
        InvalidInputError: The shaping is unknown or cannot be had in this environment.
    """
    if shaping not in SHAPINGS:
        raise unknown_name("shaping", shaping, SHAPINGS)
    return SHAPINGS[shaping](env, rounds)


def _coca(env: Env, rounds: int) -> Env:
    steps = env.unwrapped.schedule.num_steps  # type: ignore[attr-defined]
    windows = COCA_WINDOWS if steps % COCA_WINDOWS == 0 else steps
    return CoCAReward(env, windows=windows)


def _b2(env: Env, rounds: int) -> Env:
    """The released schedule: from 0.7 T trained steps to T, over the whole run."""
    steps = env.unwrapped.schedule.num_steps  # type: ignore[attr-defined]
    return B2DiffuRLReward(env, branches=BRANCHES, schedule=(round(0.7 * steps), rounds))


SHAPINGS: dict[str, Callable[[Env, int], Env]] = {
    "sparse": lambda env, rounds: SparseReward(env),
    "uniform": lambda env, rounds: UniformCreditReward(env),
    "coca": _coca,
    "b2": _b2,
    "b2+coca": lambda env, rounds: _coca(_b2(env, rounds), rounds),
}
