"""Reading JSON and TOML that others wrote."""

from collections.abc import Callable
from typing import TypeVar

from diffusion_gym.errors import InvalidInputError

T = TypeVar("T")


def parse(read: Callable[[str], T], text: str) -> T:
    """What a parser such as ``json.loads`` or ``tomllib.loads`` makes of a text.

    Raises:
        ValueError: The text is not of the format. That it is nested too deeply is one reason more,
            where the parsers themselves raise a RecursionError.
    """
    try:
        return read(text)
    except RecursionError as error:
        raise InvalidInputError("it is nested too deeply") from error
