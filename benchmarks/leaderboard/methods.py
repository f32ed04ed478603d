"""The rows of the leaderboard: one small TOML file each."""

import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.runs.own_parts import use
from diffusion_gym.checks import Checked
from diffusion_gym.errors import InvalidInputError, unknown_name

FOLDER = Path(__file__).parent / "methods"

RESERVED = frozenset(
    (
        *("model", "model_options", "reward", "reward_options", "prompts", "images", "seed"),
        *("learning_rate", "eval_prompts", "eval_samples", "eval_every", "also", "max_kl"),
        *("num_inference_steps", "device", "output", "preset", "diversity_clip", "from_run"),
    )
)
"""Options that belong to the protocol: a method that set them would be compared with nothing."""


@dataclass(frozen=True)
class MethodFile(Checked):
    """One row.

    Attributes:
        title: What the tables call it.
        options: Options of ``python -m agents.train``; as there, shaping and algorithm may be
            classes of one's own, ``module:Class``.
        paper: Where it was published.
        url: The paper's address.
        note: What else is to be known of it.
        module: A module to import first, which registers a shaping of its own
            (`agents.runs.methods.register`).
        trains: False for the model as it is.
    """

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: str | None = None
    url: str | None = None
    note: str | None = None
    module: str | None = None
    trains: bool = True

    def __post_init__(self) -> None:
        """Checks the fields, and that no option is the protocol's.

        Raises:
            InvalidInputError: One is, or a field is of another type.
        """
        super().__post_init__()
        taken = sorted(RESERVED & set(self.options))
        if taken:
            raise InvalidInputError(
                f"expected a method's options without those of the protocol, got {taken}"
            )

    def prepare(self) -> None:
        """Imports the method's module, and the code that its options name.

        Raises:
            InvalidInputError: Something cannot be imported.
        """
        if self.module:
            try:
                importlib.import_module(self.module)
            except ImportError as error:
                raise InvalidInputError(
                    f"expected a module that can be imported, got {self.module!r}: {error}"
                ) from error
        use(self.options)


def load_method(path: Path) -> MethodFile:
    """Reads a method's file.

    Raises:
        InvalidInputError: It is missing, no TOML, or has an unknown key.
    """
    try:
        return MethodFile(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInputError(f"expected a method in {path}, got: {error}") from error


def load_methods(folder: Path = FOLDER) -> dict[str, MethodFile]:
    """All rows by the names of their files."""
    return {path.stem: load_method(path) for path in sorted(folder.glob("*.toml"))}


def chosen_methods(names: tuple[str, ...], folder: Path = FOLDER) -> dict[str, MethodFile]:
    """Some rows; all where none is named.

    Raises:
        InvalidInputError: A name is unknown.
    """
    known = load_methods(folder)
    for name in names:
        if name not in known:
            raise unknown_name("method", name, known)
    return {name: known[name] for name in names or known}
