"""The reward shapings that a run can train with, each with the settings that belong to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gymnasium.vector import VectorEnv

from diffusion_gym.checks import Checked, Count, NotNegative, Share
from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    VectorCoCAReward,
    VectorNoiseAwareReward,
    VectorSparseReward,
    VectorUniformCreditReward,
)
from diffusion_gym.wrappers.b2 import RELEASED_HISTORY, released_start

Env = VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class ShapingConfig(Checked):
    """How the return of an episode becomes advantages of its steps."""

    shaping: str = "sparse"
    """Reward shaping, by name, or a CreditReward of yours, as module:Class or
    path/file.py:Class."""

    shaping_options: Mapping[str, Any] | None = None
    """Keyword arguments of a CreditReward of yours, such as '{"power": 2}'."""

    b2_start: Count | None = None
    """B²-DiffuRL's trained steps in the first round, which rise to T; by default 0.7 T."""

    noise_exponent: NotNegative | None = None
    """The p of noise-aware step weights g^-p; by default 1.5."""

    mask_last: bool = False
    """Noise-aware: leave out the last step."""

    min_weight: Share = 0.0
    """Noise-aware: leave out steps whose weight is below this part of the greatest."""


@dataclass(frozen=True)
class RunLength:
    """How long a run is, over which B²'s trained suffix grows.

    Attributes:
        rounds: Rounds of the run; B²-DiffuRL's stages.
        batches_per_round: Batches in each, which `B2DiffuRLReward` counts as stages.
    """

    rounds: int
    batches_per_round: int = 1


@dataclass(frozen=True)
class Method:
    """A reward shaping and what it is used with.

    Attributes:
        wrap: Puts the wrappers around an environment.
        options: Names of the fields of `ShapingConfig` that it reads.
        published: Settings that it was published with, whatever the model.
        checkpoint: Settings for Stable Diffusion, as published.
        embedded: Settings for the embedded model, as the leaderboard's pilot found them for
            ``house_style``: the more of the credit the early, noisy steps get, the lower a rate
            they need.
    """

    wrap: Callable[[Env, ShapingConfig, RunLength], Env]
    options: tuple[str, ...] = ()
    published: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    embedded: Mapping[str, Any] = field(default_factory=dict)


def shape_rewards(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    """Wraps a vector environment.

    Args:
        env: The environment.
        config: Names a key of `METHODS`.
        length: The run's length.

    Raises:
        InvalidInputError: The shaping is unknown, has no such option, or cannot be had in this
            environment.
    """
    chosen = method(config.shaping)
    for item in fields(config):
        name, value = item.name, getattr(config, item.name)
        if name != "shaping" and name not in chosen.options and value != item.default:
            own = [key for key, other in METHODS.items() if name in other.options]
            raise InvalidInputError(
                f"{name} belongs to the shaping {' or '.join(own) or 'of a file or module'}: "
                f"expected none with {config.shaping!r}, got {value}"
            )
    return chosen.wrap(env, config, length)


def method(name: str) -> Method:
    """A method by name.

    Raises:
        InvalidInputError: There is none.
    """
    if name not in METHODS:
        raise unknown_name("shaping", name, METHODS)
    return METHODS[name]


def register(name: str, method: Method) -> None:
    """Makes a method of one's own known by a name, for `agents.runs.settings.TrainSettings`.

    Args:
        name: Its name, as ``shaping`` is given it.
        method: The method.

    Raises:
        InvalidInputError: Another method has this name.
    """
    if METHODS.setdefault(name, method) is not method:
        raise InvalidInputError(f"expected a new name for a shaping, got {name!r}, which is taken")


def _sparse(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    del config, length
    return VectorSparseReward(env)


def _uniform(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    del config, length
    return VectorUniformCreditReward(env)


def _mask_last(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    del config, length
    return VectorNoiseAwareReward(env, exponent=0.0, mask_last=True)


def _equal_scale(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    del config, length
    return VectorNoiseAwareReward(env, exponent=1.0)


def _noise_aware(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    del length
    settings: dict[str, Any] = {"mask_last": config.mask_last, "min_weight": config.min_weight}
    if config.noise_exponent is not None:
        settings["exponent"] = config.noise_exponent
    return VectorNoiseAwareReward(env, **settings)


def _coca(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    del config, length
    return VectorCoCAReward(env)


def _b2(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    """The released schedule, over the whole run: from 0.7 T trained steps to T."""
    steps = env.unwrapped.schedule.num_steps  # type: ignore[attr-defined]
    start = released_start(steps) if config.b2_start is None else config.b2_start
    batches = length.batches_per_round
    return B2DiffuRLReward(
        env, schedule=(start, length.rounds * batches), history=RELEASED_HISTORY * batches
    )


def _b2_coca(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    return _coca(_b2(env, config, length), config, length)


def _b2_noise_aware(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    return _noise_aware(_b2(env, config, length), config, length)


# B²-DiffuRL's five branches, two passes and wide clip range (arXiv 2503.11240).
_BRANCHED = {"num_envs": 60, "samples_per_prompt": 5, "clip_range": 0.1, "n_epochs": 2}

_NOISE_AWARE = ("noise_exponent", "mask_last", "min_weight")
_B2 = ("b2_start",)

METHODS: dict[str, Method] = {
    "sparse": Method(_sparse),
    "mask-last": Method(_mask_last, embedded={"learning_rate": 2e-4}),
    "equal-scale": Method(_equal_scale, embedded={"learning_rate": 2e-4}),
    "noise-aware": Method(
        _noise_aware, _NOISE_AWARE, embedded={"learning_rate": 1e-4, "images": 384}
    ),
    "uniform": Method(_uniform, embedded={"learning_rate": 1e-4}),
    "coca": Method(
        _coca,
        published={"standardise_steps": "center"},  # arXiv 2505.19196
        checkpoint={"learning_rate": 1e-4},
        embedded={"learning_rate": 5e-5},
    ),
    "b2": Method(
        _b2,
        _B2,
        published=_BRANCHED,
        checkpoint={"learning_rate": 1e-4},
        embedded={"learning_rate": 1e-4},
    ),
    "b2+coca": Method(
        _b2_coca,
        _B2,
        published=_BRANCHED,
        checkpoint={"learning_rate": 1e-4},
        embedded={"learning_rate": 5e-5},
    ),
    "b2+noise-aware": Method(
        _b2_noise_aware,
        (*_B2, *_NOISE_AWARE),
        published=_BRANCHED,
        checkpoint={"learning_rate": 1e-4},
        embedded={"learning_rate": 5e-5},
    ),
}
"""Every method by the name that the command line knows it by; see `register`."""
