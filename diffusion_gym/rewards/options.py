"""Checking the options of a reward before it is made."""

import inspect
import json
from collections.abc import Callable, Mapping
from inspect import Parameter

from diffusion_gym.errors import InvalidInputError

DEVICE = "device"
"""The option that every reward has: where its networks run."""


def check_options(reward: str, factory: Callable[..., object], options: object) -> None:
    """Checks that a factory takes options, and that they can be written down.

    Args:
        reward: The reward's name, for messages.
        factory: What will get the options as keyword arguments, after the device.
        options: The options by name.

    Raises:
        InvalidInputError: They are no mapping, or one is unknown, or a value is nothing that JSON
            has, or one without a default is missing.
    """
    if not isinstance(options, Mapping):
        raise InvalidInputError(
            f"options of reward {reward!r} must be a mapping from names to values, got {options!r}"
        )
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    known = {DEVICE, *(item.name for item in parameters if item.kind in _NAMED)}
    takes_all = any(item.kind is Parameter.VAR_KEYWORD for item in parameters)
    for name, value in options.items():
        if name not in known and not takes_all:
            raise InvalidInputError(
                f"unknown option {name!r} of reward {reward!r}; known: {', '.join(sorted(known))}"
            )
        _check_json(reward, name, value)
    required = [item.name for item in parameters if item.default is Parameter.empty]
    missing = [name for name in required if name in known and name not in options]
    if missing:
        raise InvalidInputError(f"reward {reward!r} needs the options {', '.join(missing)}")


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _check_json(reward: str, name: str, value: object) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"option {name!r} of reward {reward!r} must be what JSON can hold, "
            f"got {value!r}: {error}"
        ) from error
