"""Reading what others wrote: JSON, TOML, paths."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from diffusion_gym.errors import InvalidInputError, first_line, shown

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


def as_path(what: str, text: str) -> Path:
    """The path that a text is, with ``~`` for the home of a user; there need be nothing.

    Args:
        what: What shall be there, for the message.
        text: The text.

    Raises:
        InvalidInputError: Nothing can be there.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # too long; or of a user that is not there
        raise InvalidInputError(
            f"{what} {shown(text, 80)} cannot be read as a path: {first_line(error)}"
        ) from error
    return path
