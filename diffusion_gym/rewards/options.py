"""Checking the options of a reward before it is made."""

import inspect
import json
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, get_type_hints

from diffusion_gym.checks import checked
from diffusion_gym.errors import InvalidInputError, shown

DEVICE = "device"
"""The option that every reward has: where its networks run."""


def check_options(reward: str, factory: Callable[..., object], options: object) -> dict[str, Any]:
    """Checks that a factory takes options, and that they can be written down.

    Args:
        reward: The reward's name, for messages.
        factory: What will get the options as keyword arguments, after the device. Where it says of
            which type one is, as a field of `diffusion_gym.checks.Checked` does, that is checked.
        options: The options by name.

    Returns:
        The options, as their types have them.

    Raises:
        InvalidInputError: They are no mapping, or one is unknown, or a value is nothing that JSON
            has or of another type, or one without a default is missing.
    """
    if not isinstance(options, Mapping):
        raise InvalidInputError(
            f"options of reward {reward!r} must be a mapping from names to values, "
            f"got {shown(options)}"
        )
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    known = {DEVICE, *(item.name for item in parameters if item.kind in _NAMED)}
    takes_all = any(item.kind is Parameter.VAR_KEYWORD for item in parameters)
    for name, value in options.items():
        if not isinstance(name, str) or (name not in known and not takes_all):
            raise InvalidInputError(
                f"unknown option {shown(name)} of reward {reward!r}; "
                f"known: {', '.join(sorted(known))}"
            )
        _check_json(reward, name, value)
    required = [item.name for item in parameters if item.default is Parameter.empty]
    missing = [name for name in required if name in known and name not in options]
    if missing:
        raise InvalidInputError(f"reward {reward!r} needs the options {', '.join(missing)}")
    return _as_annotated(reward, factory, options)


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _check_json(reward: str, name: str, value: object) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"option {shown(name)} of reward {reward!r} must be what JSON can hold, "
            f"got {shown(value)}: {error}"
        ) from error


def _as_annotated(
    reward: str, factory: Callable[..., object], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options as the factory's annotations have them, where it has any that can be read."""
    try:
        hints = get_type_hints(factory, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    hints = {DEVICE: str} | {name: hint for name, hint in hints.items() if name in options}
    return {
        name: checked(f"option {shown(name)} of reward {reward!r}", value, hints[name])
        if name in hints
        else value
        for name, value in options.items()
    }
