"""Command lines made from dataclasses, with errors that a person can read."""

import argparse
import dataclasses
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
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
        flag = f"--{item.name.replace('_', '-')}"
        options = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        kind = _kind(hints[item.name])
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            parse, metavar = PARSERS.get(kind, (kind, kind.__name__.upper()))
            parser.add_argument(flag, type=parse, metavar=metavar, **options)


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


def _kind(hint: Any) -> type:
    """``int`` for ``int`` and for ``int | None``, ``Mapping`` for ``Mapping[str, Any] | None``."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast(type, typing.get_origin(hint) or hint)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"expected a JSON object such as '{{\"name\": 1}}', got {text!r}"
        )
    return value


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, got {text!r}")
    return names


PARSERS: dict[type, tuple[Callable[[str], Any], str]] = {
    Mapping: (_json_object, "JSON"),
    Sequence: (_names, "NAME,…"),
}
"""What reads the values of an option that are no plain numbers or texts, and what stands for it."""
