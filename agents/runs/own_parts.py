"""Rewards, shapings, algorithms and callbacks of one's own, by the name of their code.

A run's settings name them, a run folder does not hold them: `named` says which code settings name,
and `use` imports it. Nothing else does: whoever reads another's settings runs nothing of theirs.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from inspect import Parameter, Signature
from typing import Any, Literal, NamedTuple, get_type_hints

from stable_baselines3.common.callbacks import BaseCallback

from agents.common.image_algorithm import ImageAlgorithm
from agents.common.round_config import RoundConfig
from agents.runs.algorithms import ALGORITHMS, Algorithm
from agents.runs.methods import METHODS, Env, Method, RunLength, ShapingConfig
from agents.runs.named_code import Origin, code_name, imported, is_code, origin, short
from diffusion_gym.errors import InvalidInputError, shown
from diffusion_gym.rewards import register_reward, reward_names
from diffusion_gym.rewards.base import FunctionReward, RewardFunction
from diffusion_gym.rewards.options import check_options
from diffusion_gym.wrappers import CreditReward

Kind = Literal["reward", "shaping", "algorithm", "callback"]

DEVICE = "device"
"""The parameter by which code asks for the device that it shall compute on."""

METADATA = "metadata"
"""The parameter by which a reward asks for the prompts' metadata."""


class Named(NamedTuple):
    """Code that settings name.

    Attributes:
        kind: What it is used as.
        text: The name, as `agents.runs.named_code` reads it.
    """

    kind: Kind
    text: str


def named(settings: Mapping[str, Any]) -> list[Named]:
    """The code that settings, or some of them, name, each once; nothing is imported.

    What else stands in its place, as in a damaged file, is left to others to refuse.
    """
    places: dict[str, Kind] = {
        **{"reward": "reward", "also": "reward", "shaping": "shaping", "algorithm": "algorithm"},
        "callback": "callback",
    }
    texts = [(kind, text) for place, kind in places.items() for text in _texts(settings.get(place))]
    return list(dict.fromkeys(Named(kind, text) for kind, text in texts if _is_own(kind, text)))


def _texts(value: object) -> list[str]:
    """The names in a setting: one text, several, or the keys of weights."""
    several = value if isinstance(value, list | tuple | Mapping) else [value]
    return [text for text in several if isinstance(text, str)]


def unknown(settings: Mapping[str, Any]) -> list[Named]:
    """Of the code that settings name, what `use` has not imported yet."""
    return [each for each in named(settings) if each.text not in _KNOWN[each.kind]()]


def check_trusted(settings: Mapping[str, Any], where: object, trust: bool) -> None:
    """Refuses code that a file names and nobody has typed.

    Args:
        settings: What the file says.
        where: The file, or the run folder, for the message.
        trust: Whether the user has asked for it.

    Raises:
        InvalidInputError: There is such code, and they have not.
    """
    names = [each.text for each in unknown(settings)]
    if names and not trust:
        raise InvalidInputError(
            f"{where} names code that it does not hold ({', '.join(map(shown, names))}), and a "
            "file of settings may come from anyone: expected --trust, which imports that code and "
            "so runs it, got none"
        )


def with_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with absolute paths in the names of code.

    Options of a reward may go by its name as it was typed, or by the last part of that.

    Raises:
        InvalidInputError: A name is malformed, or of a file that is not there.
    """
    full = {each: str(code_name(f"--{each.kind}", each.text)) for each in named(settings)}

    def of(kind: Kind, text: Any) -> Any:
        return full.get(Named(kind, text), text) if isinstance(text, str) else text

    changed = dict(settings)
    if isinstance(reward := settings.get("reward"), Mapping):
        changed["reward"] = {of("reward", name): weight for name, weight in reward.items()}
    elif reward is not None:
        changed["reward"] = of("reward", reward)
    if isinstance(options := settings.get("reward_options"), Mapping):
        called = {short(name): name for kind, name in full.items() if kind.kind == "reward"}
        own = {name: called.get(name, name) for name in options if name not in reward_names()}
        changed["reward_options"] = {
            of("reward", own.get(name, name)): value for name, value in options.items()
        }
    kinds: tuple[tuple[str, Kind], ...] = (("also", "reward"), ("callback", "callback"))
    for name, kind in kinds:
        if settings.get(name):
            changed[name] = [of(kind, text) for text in settings[name]]
    singles: tuple[Kind, ...] = ("shaping", "algorithm")
    for single in singles:
        if settings.get(single):
            changed[single] = of(single, settings[single])
    return changed


def use(settings: Mapping[str, Any]) -> None:
    """Imports all code that settings name, checks what it is, and registers it under its name.

    Raises:
        InvalidInputError: Something cannot be imported, or is not what it should be, or an option
            is none of its own.
    """
    options = settings.get("reward_options") or {}
    for kind, text in named(settings):
        found = imported(f"--{kind}", text)
        try:
            _USES[kind](text, found)
            if kind == "reward":
                check_options(short(text), _REWARDS[text], options.get(text, {}))
            if kind == "shaping":
                _check_built(found, (None,), settings.get("shaping_options") or {})
        except InvalidInputError as error:
            raise InvalidInputError(f"--{kind} {shown(text)}: {error}") from error


def make_callbacks(names: Collection[str]) -> list[BaseCallback]:
    """The callbacks of names that `use` has seen.

    Raises:
        InvalidInputError: A name is none of code.
    """
    for name in names:
        if name not in _CALLBACKS:
            raise InvalidInputError(
                "expected --callback as module:Class or path/file.py:Class, of code that was "
                f"imported, got {shown(name)}"
            )
    return [_CALLBACKS[name]() for name in names]


def origins(settings: Mapping[str, Any]) -> dict[str, Origin]:
    """The file of all code that settings name and `use` has imported, by its name."""
    return {each.text: origin(each.text) for each in named(settings)}


# --------------------------------------------------------------------- what each has to be


def _use_reward(text: str, found: Any) -> None:
    factory = _reward_factory(text, found)
    _REWARDS[text] = register_reward(text, label=short(text))(factory)


def _reward_factory(text: str, found: Any) -> Callable[..., Any]:
    """What makes a reward of an object: see the page on rewards for the rules.

    Raises:
        InvalidInputError: It is no reward, and makes none.
    """
    if not callable(found):
        raise InvalidInputError(
            "expected a function of images and prompts, a class or a factory, got "
            f"{type(found).__name__} {shown(found, 80)}"
        )
    signature = _signature(found)
    names = list(signature.parameters)
    if isinstance(found, type):
        return _like(found, signature, lambda device, options: found(**options))
    if names[:1] == [DEVICE]:
        return _like(found, signature, lambda device, options: found(device, **options))
    _check_reward(signature, found)
    if isinstance(found, RewardFunction):
        return _like(found, Signature(), lambda device, options: found)
    own = [p for p in list(signature.parameters.values())[2:] if p.name != METADATA]
    version = (origin(text).sha256 or "1")[:12]

    def bound(device: str, options: dict[str, Any]) -> FunctionReward:
        del device
        return FunctionReward(short(text), version, partial(found, **options) if options else found)

    return _like(found, Signature(own), bound)


def _check_reward(signature: Signature, found: Any) -> None:
    options = {METADATA: None} if METADATA in signature.parameters else {}
    try:
        signature.bind(None, None, **options)
    except TypeError:
        try:  # metadata as the third of three
            signature.bind(None, None, None)
        except TypeError as error:
            raise InvalidInputError(
                "expected a reward that is called as reward(images, prompts), a class, or a "
                f"factory whose first parameter is {DEVICE!r}, got "
                f"{getattr(found, '__name__', type(found).__name__)}{signature}: {error}"
            ) from error


def _like(
    found: Any, signature: Signature, make: Callable[[str, dict[str, Any]], Any]
) -> Callable[..., Any]:
    """A factory as `register_reward` wants it, with the options of something callable.

    Args:
        found: What says of which types they are.
        signature: Whose parameters, but for the device, they are.
        make: Makes the reward from the device and the options.
    """
    takes_device = DEVICE in signature.parameters

    def factory(device: str, **options: Any) -> Any:
        if takes_device and isinstance(found, type):
            options[DEVICE] = device
        return make(device, options)

    own = [p for p in signature.parameters.values() if p.name != DEVICE]
    by_name = [
        p if p.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD) else _keyword(p)
        for p in own
        if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.POSITIONAL_ONLY)
    ]
    by_name.sort(key=lambda parameter: parameter.kind)
    first = Parameter(DEVICE, Parameter.POSITIONAL_OR_KEYWORD, annotation=str)
    typed: Any = factory
    typed.__signature__ = Signature([first, *by_name])
    try:
        target = vars(found).get("__init__", found) if isinstance(found, type) else found
        typed.__annotations__ = get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        typed.__annotations__ = {}
    return factory


def _keyword(parameter: Parameter) -> Parameter:
    return parameter.replace(kind=Parameter.KEYWORD_ONLY)


def _use_shaping(text: str, found: Any) -> None:
    _check_subclass(found, CreditReward)
    wrapper: type[CreditReward] = found
    if wrapper.kind != "vector" and "vector" not in wrapper.forms:
        name = wrapper.__name__
        raise InvalidInputError(
            f"expected a form for vector environments, `class Vector{name}({name}, VectorShaping, "
            f"form_of={name})`, got none"
        )

    def wrap(env: Env, config: ShapingConfig, length: RunLength) -> Env:
        del length
        shaped: Any = wrapper(env, **dict(config.shaping_options or {}))
        return shaped  # type: ignore[no-any-return]

    _SHAPINGS[text] = wrapper
    METHODS[text] = Method(wrap, ("shaping_options",))


def _use_algorithm(text: str, found: Any) -> None:
    _check_subclass(found, ImageAlgorithm)
    agent: type[ImageAlgorithm] = found
    if inspect.isabstract(agent) or agent.config_class is RoundConfig:
        lacks = sorted(getattr(agent, "__abstractmethods__", ())) or ["config_class"]
        raise InvalidInputError(
            f"expected a class that says all that ImageAlgorithm leaves open, got one without "
            f"{', '.join(lacks)}"
        )
    _AGENTS[text] = agent
    ALGORITHMS[text] = Algorithm(agent, agent.config_class)


def _use_callback(text: str, found: Any) -> None:
    if isinstance(found, BaseCallback):
        _CALLBACKS[text] = lambda: found
        return
    _check_subclass(found, BaseCallback)
    _check_built(found, (), {})
    _CALLBACKS[text] = found


def _check_subclass(found: Any, base: type) -> None:
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        got = found.__name__ if isinstance(found, type) else type(found).__name__
        kind = "the class " if isinstance(found, type) else "an object of type "
        raise InvalidInputError(f"expected a subclass of {base.__name__}, got {kind}{got}")


def _check_built(kind: type, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Checks that a class is built with these arguments, without doing so."""
    try:
        _signature(kind).bind(*arguments, **options)
    except TypeError as error:
        what = f"with the options {shown(dict(options))}" if options else "without any option"
        raise InvalidInputError(
            f"{kind.__name__}{_signature(kind)} cannot be built {what}: {error}"
        ) from error


def _signature(found: Any) -> Signature:
    try:
        return inspect.signature(found)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"expected something whose parameters can be told, got {shown(found, 80)}"
        ) from error


def _is_own(kind: Kind, text: Any) -> bool:
    """Whether a text names code; what is registered otherwise does not."""
    registered = _KNOWN[kind]()
    return is_code(text) and (text in _OWN[kind] or text not in registered)


_REWARDS: dict[str, Callable[..., Any]] = {}
_SHAPINGS: dict[str, type[CreditReward]] = {}
_AGENTS: dict[str, type[ImageAlgorithm]] = {}
_CALLBACKS: dict[str, Callable[[], BaseCallback]] = {}

_OWN: Mapping[Kind, Mapping[str, Any]] = {
    "reward": _REWARDS,
    "shaping": _SHAPINGS,
    "algorithm": _AGENTS,
    "callback": _CALLBACKS,
}
"""What was imported, by kind and name."""

_KNOWN: Mapping[Kind, Callable[[], Collection[str]]] = {
    "reward": reward_names,
    "shaping": lambda: METHODS,
    "algorithm": lambda: ALGORITHMS,
    "callback": lambda: _CALLBACKS,
}
"""All names that mean something, by kind."""

_USES: Mapping[Kind, Callable[[str, Any], None]] = {
    "reward": _use_reward,
    "shaping": _use_shaping,
    "algorithm": _use_algorithm,
    "callback": _use_callback,
}
