"""Rewards by name: registering, listing and making them."""

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TypeVar

from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.rewards.base import FunctionReward, PlainReward, RewardFunction
from diffusion_gym.rewards.builtin import BUILT_IN
from diffusion_gym.rewards.composite import CompositeReward

RewardFactory = Callable[[str], RewardFunction | PlainReward]
"""Makes a reward for a device such as ``"cpu"`` or ``"cuda:0"``."""

_Factory = TypeVar("_Factory", bound=RewardFactory)

_factories: dict[str, RewardFactory] = dict(BUILT_IN)


def register_reward(name: str) -> Callable[[_Factory], _Factory]:
    """Registers what makes a reward, so that it can be named wherever a reward is asked for.

    Example:
        >>> @register_reward("mean_brightness")
        ... def make_mean_brightness(device):
        ...     return lambda images, prompts: images.mean(dim=(1, 2, 3))
        >>> make_reward("mean_brightness")
        FunctionReward('mean_brightness', version='1')

    Args:
        name: The name. Registering it again, as a notebook does, replaces what it stood for; the
            names of the rewards that come with the package are taken.

    Returns:
        A decorator for the factory. The factory gets the device and returns either a plain function
        of images [B, 3, H, W] and B prompts that gives rewards [B], or an object with ``name``,
        ``version`` and a ``__call__`` that gives a ``RewardResult``.

    Raises:
        InvalidInputError: The name is taken.
    """
    if name in BUILT_IN:
        raise InvalidInputError(
            f"the reward {name!r} comes with the package; register yours under another name"
        )

    def register(factory: _Factory) -> _Factory:
        _factories[name] = factory
        return factory

    return register


def reward_names() -> tuple[str, ...]:
    """Returns the names of all registered rewards, sorted."""
    return tuple(sorted(_factories))


def make_reward(
    spec: str | Mapping[str, float] | RewardFunction | PlainReward, *, device: str = "cpu"
) -> RewardFunction:
    """Makes a reward.

    Args:
        spec: A registered name; or a weight for each of several names, whose weighted sum is the
            reward; or a function of images [B, 3, H, W] and B prompts that gives rewards [B].
        device: Where its networks run; the images may lie anywhere.

    Raises:
        InvalidInputError: Nothing is registered under a name, or a weight is not a finite number.
        ModelLoadError: The weights that a reward needs are not there.
    """
    if isinstance(spec, str):
        if spec not in _factories:
            raise unknown_name("reward", spec, _factories)
        return _with_name(_factories[spec](str(device)), spec)
    if isinstance(spec, Mapping):
        parts = {name: make_reward(name, device=device) for name in spec}
        return CompositeReward(parts, spec)
    name = spec.__name__ if isinstance(spec, FunctionType) else type(spec).__name__
    return _with_name(spec, name)


def _with_name(reward: RewardFunction | PlainReward, name: str) -> RewardFunction:
    if isinstance(reward, RewardFunction):
        return reward
    if not callable(reward):
        raise InvalidInputError(
            f"reward {name!r} must be a function of images and prompts, got {type(reward).__name__}"
        )
    return FunctionReward(name, "1", reward)
