"""The errors that a user of diffusion_gym can meet, and can catch in one clause."""

from collections.abc import Iterable


class DiffusionGymError(Exception):
    """Base of every error that diffusion_gym raises on purpose."""


class InvalidInputError(DiffusionGymError, ValueError):
    """An argument has the wrong name, shape, type or value."""


class UnknownKeywordError(InvalidInputError, TypeError):
    """A keyword argument that there is not.

    A TypeError as well, as Python's own functions raise: libraries that try a keyword, such as
    TorchRL's ``frameskip``, look for that.
    """


class ModelLoadError(DiffusionGymError, RuntimeError):
    """Weights or configuration files are missing, damaged or of an unsupported kind."""


class RewardServerError(DiffusionGymError, RuntimeError):
    """The servers of a reward cannot be reached, or do not answer as they should."""


def unknown_keyword(owner: str, name: str, known: Iterable[str]) -> UnknownKeywordError:
    """Builds the error for a keyword argument that there is not, ready to be raised.

    Args:
        owner: What was called.
        name: The keyword.
        known: The keywords that there are; its message lists them.
    """
    return UnknownKeywordError(
        f"{owner} got an unexpected keyword argument {shown(name)}; "
        f"known: {', '.join(sorted(known))}"
    )


def one_line(text: str, limit: int = 300) -> str:
    """A text to quote in a message: in one line, printable, and cut after so many characters."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def shown(value: object, limit: int = 200) -> str:
    """A value to quote in a message: as Python writes it, in one line and cut, whatever it is."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of too many digits
        text = f"a value of type {type(value).__name__} that is too large to be shown"
    line = " ".join(part.strip() for part in text.splitlines())
    return line if len(line) <= limit else f"{line[:limit]}…"


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its class's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0]) if lines else type(error).__name__


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InvalidInputError:
    """Builds the error for a name that nothing is registered under.

    Args:
        kind: What was looked up, in the singular, such as ``"reward"``.
        name: The name that was asked for.
        known: The names that exist.

    Returns:
        The error, ready to be raised; its message lists the known names.
    """
    return InvalidInputError(f"unknown {kind} {shown(name)}; known: {', '.join(sorted(known))}")
