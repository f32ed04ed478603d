"""The rows of the leaderboard: one small TOML file each."""

import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from agents.runs.methods import METHODS, Method, register
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
        options: Options of ``python -m agents.train``.
        paper: Where it was published.
        url: The paper's address.
        note: What else is to be known of it.
        module: A module to import first, which registers a shaping of its own
            (`agents.runs.methods.register`).
        wrapper: A wrapper of vector environments of one's own, as ``module:Class``; the shaping.
        agent: A subclass of the algorithm's agent, as ``module:Class``.
        trains: False for the model as it is.
    """

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: str | None = None
    url: str | None = None
    note: str | None = None
    module: str | None = None
    wrapper: str | None = None
    agent: str | None = None
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
        if self.wrapper and "shaping" in self.options:
            raise InvalidInputError("expected a wrapper or a shaping, got both")

    def prepare(self) -> None:
        """Imports the method's module and registers its wrapper as a shaping, if it has them.

        Raises:
            InvalidInputError: One cannot be imported.
        """
        if self.module:
            imported(self.module)
        if self.wrapper and self.wrapper not in METHODS:
            wrap = named_class(self.wrapper)
            register(self.wrapper, Method(lambda env, config, length: wrap(env)))


def imported(name: str) -> ModuleType:
    """A module by name.

    Raises:
        InvalidInputError: It cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidInputError(
            f"expected a module that can be imported, got {name!r}: {error}"
        ) from error


def named_class(name: str) -> Any:
    """The class that ``module:Class`` names.

    Raises:
        InvalidInputError: There is none.
    """
    module, _, own = name.partition(":")
    found = getattr(imported(module), own, None) if module and own else None
    if not isinstance(found, type):
        raise InvalidInputError(f"expected a class as module:Class, got {name!r}")
    return found


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
