"""Rewards by name: registering, listing and making them."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar

from diffusion_gym.errors import InvalidInputError, shown, unknown_name
from diffusion_gym.rewards.base import (
    FunctionReward,
    PlainReward,
    RewardFunction,
    check_name,
)
from diffusion_gym.rewards.builtin import BUILT_IN
from diffusion_gym.rewards.composite import CompositeReward
from diffusion_gym.rewards.options import check_options

RewardFactory = Callable[..., RewardFunction | PlainReward]
"""Makes a reward for a device such as ``"cpu"`` or ``"cuda:0"``; keyword arguments are options."""

REMOTE = "remote"
"""The reward that other machines compute; ``remote/NAME`` is one of several in a sum."""

_Factory = TypeVar("_Factory", bound=RewardFactory)

_factories: dict[str, RewardFactory] = dict(BUILT_IN)
_labels: dict[str, str] = {}


def register_reward(name: str, *, label: str | None = None) -> Callable[[_Factory], _Factory]:
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
        label: What it is called in tables and among the terms of a sum, where names are long; None:
            its name.

    Returns:
        A decorator for the factory. The factory gets the device, and as keyword arguments the
        options given to `make_reward`, if it takes any. It returns either a plain function of
        images [B, 3, H, W] and B prompts that gives rewards [B], or an object with ``name``,
        ``version`` and a ``__call__`` that gives a ``RewardResult``.

    Raises:
        InvalidInputError: The name is taken, or is no proper name.
    """
    check_name("rewards", name)
    check_name("rewards", name if label is None else label)
    if name in BUILT_IN or is_remote(name):
        raise InvalidInputError(
            f"the reward {shown(name)} comes with the package; register yours under another name"
        )

    def register(factory: _Factory) -> _Factory:
        _factories[name] = factory
        _labels[name] = name if label is None else label
        return factory

    return register


def reward_names() -> tuple[str, ...]:
    """Returns the names of all registered rewards, sorted."""
    return tuple(sorted(_factories))


def make_reward(
    spec: str | Mapping[str, Any] | RewardFunction | PlainReward,
    *,
    device: str = "cpu",
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> RewardFunction:
    """Makes a reward.

    Example:
        >>> options = {"clip_score": {"batch_size": 16}}
        >>> make_reward({"clip_score": 10, "jpeg_compressibility": 1}, options=options)
        CompositeReward('10 clip_score + 1 jpeg_compressibility')

    Args:
        spec: A registered name; or a weight for each of several names, whose weighted sum is the
            reward; or ``{"remote": url}``, with one url or several, for a reward on other machines,
            of which a sum may have several, as ``remote/NAME`` with any name;
            or a function of images [B, 3, H, W] and B prompts that gives rewards [B], as a tensor,
            an array or a list; or a `RewardFunction`.
        device: Where its networks run; the images may lie anywhere.
        options: Keyword arguments for the factories, by the reward's name, which may be left out
            where there is but one; values as JSON has them. Every reward takes ``"device"``, which
            puts it on another device than the rest.

    Raises:
        InvalidInputError: Nothing is registered under a name, a weight is not a finite number, or
            an option is unknown or for a reward that is not made.
        ModelLoadError: The weights, or the package, that a reward needs are not there.
        RewardServerError: No server of a reward on other machines answers.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise InvalidInputError(
            f"expected the options of rewards as a mapping from their names, got {shown(options)}"
        )
    spec, options = by_name(spec, options)
    if isinstance(spec, str):
        _check_used(options, [spec])
        return _make(spec, device, options.get(spec, {}))
    if isinstance(spec, Mapping):
        _check_used(options, spec)
        parts = {name: _make(name, device, options.get(name, {})) for name in spec}
        labels = {name: _labels.get(name, name) for name in spec}
        if len(set(labels.values())) < len(labels):  # of two files, say
            labels = {name: name for name in spec}
        return CompositeReward(
            {labels[name]: part for name, part in parts.items()},
            {labels[name]: weight for name, weight in spec.items()},
        )
    _check_used(options, [])
    return _with_name(spec, _name_of(spec))


def by_name(spec: Any, options: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """A reward and its options in one form, however `make_reward` may be given them.

    Returns:
        A name instead of ``{"remote": url}``, whose url, which no weight could be, is an option;
        and the options by the reward's name, also where that was left out.
    """
    servers = spec.get(REMOTE) if isinstance(spec, Mapping) and len(spec) == 1 else None
    is_remote = isinstance(servers, str | list | tuple)
    name = REMOTE if is_remote else spec
    if not isinstance(name, str):
        return spec, options
    if options and name not in options and not options.keys() & _factories.keys():
        options = {name: options}
    own = options.get(name, {})
    if is_remote and isinstance(own, Mapping):  # what else it may be is refused with its name
        options = {**options, name: {**own, "url": servers}}
    return name, options


def is_remote(name: object) -> bool:
    """Whether a reward of this name is computed by other machines; no name but a text is."""
    if not isinstance(name, str):
        return False
    kind, slash, own = name.partition("/")
    return kind == REMOTE and bool(own) == bool(slash)


def _name_of(reward: object) -> str:
    """The name of a function or a method, also of a partial one; else that of its class."""
    while isinstance(reward, partial):
        reward = reward.func
    return str(getattr(reward, "__name__", type(reward).__name__))


def _make(name: str, device: str, options: Mapping[str, Any]) -> RewardFunction:
    kind = REMOTE if is_remote(name) else name
    if kind not in _factories:
        raise unknown_name("reward", name, _factories)
    factory = _factories[kind]
    own = check_options(name, factory, options)
    if kind in BUILT_IN and "device" in own:
        # Imported here so that the other rewards do not wait for diffusers.
        from diffusion_gym.models.loading import resolve_device

        own["device"] = str(resolve_device(own["device"]))
    return _with_name(factory(own.pop("device", device), **own), _labels.get(name, name))


def _check_used(options: Mapping[str, Any], names: Collection[str]) -> None:
    for name in options:
        if name not in names:
            used = ", ".join(names) or "a function, which has no options"
            raise InvalidInputError(
                f"options were given for reward {shown(name)}, which is not used; used: {used}"
            )


def _with_name(reward: RewardFunction | PlainReward, name: str) -> RewardFunction:
    if isinstance(reward, type):
        raise InvalidInputError(
            f"reward {name!r} must be a function or an object, got the class {reward.__name__}: "
            f"expected {reward.__name__}(…)"
        )
    if isinstance(reward, RewardFunction):
        for what in ("name", "version"):
            text = getattr(reward, what)
            if not isinstance(text, str) or not text:
                raise InvalidInputError(
                    f"reward {name!r} must have a text as its {what}, got {shown(text)}"
                )
        return reward
    if not callable(reward):
        raise InvalidInputError(
            f"reward {name!r} must be a function of images and prompts, got {type(reward).__name__}"
        )
    return FunctionReward(name, "1", reward)
