"""Published recipes as files: settings of a training run, by the names of `TrainSettings`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_gym.checks import checked
from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.parsing import as_path, parse

FOLDER = Path(__file__).parent
SUFFIX = ".toml"

OWN = ("preset", "output", "from_run")
"""Settings that are a run's own, not a recipe's."""


def preset_names() -> list[str]:
    """The names of the presets that come with the agents, sorted."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}"))


def read_preset(name: str) -> dict[str, Any]:
    """What a preset says, unchecked.

    Args:
        name: One of `preset_names`, or the path of a ``.toml`` file.

    Raises:
        InvalidInputError: There is no such preset or file, or it is not TOML.
    """
    file = _find(name)
    try:
        return parse(tomllib.loads, file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"the preset file {file} is not valid TOML: {error}") from error


def load_preset(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a preset.

    Args:
        name: One of `preset_names`, or the path of a ``.toml`` file.
        settings: The settings that there are, with the type of each.

    Returns:
        Values by the names of settings.

    Raises:
        InvalidInputError: There is no such preset or file; it is not TOML; or it sets something
            that is no setting, or to a value of another type or outside its range.
    """
    file, recipe = _find(name), read_preset(name)
    known = {key: kind for key, kind in settings.items() if key not in OWN}
    try:
        for key in recipe:
            if key not in known:
                raise unknown_name("setting", key, known)
        return {key: checked(key, value, known[key]) for key, value in recipe.items()}
    except InvalidInputError as error:
        raise InvalidInputError(f"{file}: {error}") from error


def _find(name: str) -> Path:
    if name in preset_names():
        return FOLDER / f"{name}{SUFFIX}"
    if not str(name).endswith(SUFFIX):
        raise unknown_name("preset", name, [*preset_names(), f"or the path of a {SUFFIX} file"])
    file = as_path("preset", name)
    if not file.is_file():
        raise InvalidInputError(f"the preset file {file} does not exist")
    return file
