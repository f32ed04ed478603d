"""Command lines made from dataclasses, with errors that a person can read."""

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gymnasium as gym
from rich.console import Console

from diffusion_gym.errors import DiffusionGymError

Settings = TypeVar("Settings")


def add_options(parser: argparse.ArgumentParser, settings: type[Any]) -> None:
    """Adds one option per field of a dataclass; help and default come from the field."""
    hints = typing.get_type_hints(settings)
    for item in dataclasses.fields(settings):
        text = item.metadata["help"]
        if item.default is not None:
            text += f" (default: {item.default})"
        parser.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=_scalar(hints[item.name]),
            default=argparse.SUPPRESS,
            metavar=_scalar(hints[item.name]).__name__.upper(),
            help=text,
        )


def given_options(options: argparse.Namespace, settings: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass that were given on the command line."""
    names = {item.name for item in dataclasses.fields(settings)}
    return {name: value for name, value in vars(options).items() if name in names}


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Runs a command; the user's mistakes end it with one paragraph and exit status 2."""
    try:
        status = main(None)
    except (DiffusionGymError, gym.error.Error, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {_plain(error)}", highlight=False)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _plain(error: BaseException) -> str:
    return " ".join(str(error).replace("[", r"\[").split()) or type(error).__name__


def _scalar(hint: Any) -> type:
    """``int`` for ``int`` and for ``int | None``."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast(type, hint)
