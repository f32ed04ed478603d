"""The errors that a user of diffusion_gym can meet, and can catch in one clause."""

from collections.abc import Iterable


class DiffusionGymError(Exception):
    """Base of every error that diffusion_gym raises on purpose."""


class InvalidInputError(DiffusionGymError, ValueError):
    """An argument has the wrong name, shape, type or value."""


class ModelLoadError(DiffusionGymError, RuntimeError):
    """Weights or configuration files are missing, damaged or of an unsupported kind."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InvalidInputError:
    """Builds the error for a name that nothing is registered under.

    Args:
        kind: What was looked up, in the singular, such as ``"reward"``.
        name: The name that was asked for.
        known: The names that exist.

    Returns:
        The error, ready to be raised; its message lists the known names.
    """
    return InvalidInputError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")
