"""Published recipes as files: settings of a training run, by the names of `TrainSettings`."""

import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_gym.errors import InvalidInputError, unknown_name

FOLDER = Path(__file__).parent
SUFFIX = ".toml"
AS: Mapping[type, set[Any]] = {int: {int, float}, dict: {Mapping}, list: {Sequence}}
"""What a value of TOML can be taken as; others are what they are."""

OWN = ("preset", "output")
"""Settings that are a run's own, not a recipe's."""


def preset_names() -> list[str]:
    """The names of the presets that come with the agents, sorted."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}"))


def load_preset(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a preset.

    Args:
        name: One of `preset_names`, or the path of a ``.toml`` file.
        settings: The settings that there are, with the type of each.

    Returns:
        Values by the names of settings.

    Raises:
        InvalidInputError: There is no such preset or file; it is not TOML; or it sets something
            that is no setting, or to a value of another type.
    """
    file = FOLDER / f"{name}{SUFFIX}"
    if name not in preset_names():
        if not name.endswith(SUFFIX):
            raise unknown_name("preset", name, [*preset_names(), f"or the path of a {SUFFIX} file"])
        file = Path(name).expanduser()
        if not file.is_file():
            raise InvalidInputError(f"the preset file {file} does not exist")
    try:
        recipe = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the preset file {file} is not valid TOML: {error}") from error
    known = {key: hint for key, hint in settings.items() if key not in OWN}
    for key, value in recipe.items():
        if key not in known:
            raise InvalidInputError(f"{file}: {unknown_name('setting', key, known)}")
        if not _fits(value, known[key]):
            raise InvalidInputError(
                f"{file}: expected {key} to be of the type {_name(known[key])}, got {value!r}"
            )
    return recipe


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML has a type such as ``float | None`` or ``Sequence[str] | None``."""
    kinds = {typing.get_origin(part) or part for part in _parts(hint)}
    return bool(kinds & AS.get(type(value), {type(value)}))


def _name(hint: Any) -> str:
    return " or ".join(getattr(part, "__name__", str(part)) for part in _parts(hint))


def _parts(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type; not None, which TOML does not have."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(part for part in parts if part is not types.NoneType)
