"""Objects of modules and files that are named in a text: ``module:name``, ``path/file.py:name``.

Importing runs code: callers import what a person has typed, and what a file names only where that
person says so.
"""

import hashlib
import importlib
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_gym.errors import InvalidInputError, first_line, one_line, shown
from diffusion_gym.parsing import as_path

SUFFIX = ".py"


class CodeName(NamedTuple):
    """Where an object is.

    Attributes:
        source: The full name of a module, or the absolute path of a file.
        name: The object's name in it, with dots where it lies inside others.
    """

    source: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether it is in a file."""
        return self.source.endswith(SUFFIX)

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"


class Origin(NamedTuple):
    """The file that an object is from; what that imports is not looked at.

    Attributes:
        file: Its absolute path; None for what has none, such as a built-in module.
        sha256: Of its content, as hexadecimal digits.
    """

    file: str | None
    sha256: str | None


def is_code(text: object) -> bool:
    """Whether a text means an object of a module or file, and no registered name."""
    return isinstance(text, str) and (":" in text or text.endswith(SUFFIX))


def short(text: str) -> str:
    """What to call an object in tables and names of folders; any other text as it is."""
    return text.rpartition(":")[2] if is_code(text) else text


def code_name(what: str, text: str) -> CodeName:
    """Reads a name; nothing is imported.

    Args:
        what: What asks for it, such as ``--reward``, for messages.
        text: ``module:name`` or ``path/file.py:name``.

    Returns:
        The name, with the absolute path of a file.

    Raises:
        InvalidInputError: It is no such text, or there is no such file.
    """
    source, _, name = text.rpartition(":")
    file = source.endswith(SUFFIX)
    words = [] if file else source.split(".")
    if not source or not all(word.isidentifier() for word in (*words, *name.split("."))):
        raise InvalidInputError(
            f"expected {what} as module:name or path/file.py:name, got {shown(text)}"
        )
    if file:
        path = as_path(what, source)
        if not path.is_file():
            raise InvalidInputError(
                f"expected {what} in a file that is there, got {shown(text)}: no file "
                f"{one_line(str(path.absolute()))}"
            )
        source = str(path.resolve())
    return CodeName(source, name)


def imported(what: str, text: str) -> Any:
    """Imports an object.

    A file is run once, as long as it does not change, as a module of its own, which also finds the
    modules in its folder.

    Args:
        what: What asks for it, for messages.
        text: As `code_name` reads it.

    Raises:
        InvalidInputError: There is nothing of that name, or importing it fails.
    """
    where = code_name(what, text)
    try:
        found: Any = _from_file(where) if where.is_file else _from_module(where.source)
    except (Exception, SystemExit) as error:  # whatever the code does
        raise InvalidInputError(
            f"cannot import {shown(text)}, which {what} names: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    for part in where.name.split("."):
        if not hasattr(found, part):
            raise InvalidInputError(
                f"expected {what} to name something in {one_line(where.source)}, got "
                f"{shown(text)}: there is no {part!r}"
            )
        found = getattr(found, part)
    return found


def origin(text: str) -> Origin:
    """Where an object that was imported is from, as its file was then."""
    return _origins[code_name("code", text).source]


_origins: dict[str, Origin] = {}
"""Of every module and file that something was imported from."""


def _from_module(name: str) -> types.ModuleType:
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    content = Path(file).read_bytes() if file is not None and Path(file).is_file() else None
    _origins[name] = Origin(None, None) if content is None else Origin(file, _sha256(content))
    return module


def _from_file(where: CodeName) -> types.ModuleType:
    path = Path(where.source)
    content = path.read_bytes()
    _origins[where.source] = Origin(where.source, _sha256(content))
    name = _module_name(where, content)
    if name in sys.modules:
        return sys.modules[name]
    module: Any = types.ModuleType(name)
    module.__file__ = where.source
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that it hides nothing
    sys.modules[name] = module  # where dataclasses and pickle look for what it defines
    try:
        exec(compile(content, where.source, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    assert isinstance(module, types.ModuleType)
    return module


def _module_name(where: CodeName, content: bytes) -> str:
    """The same name in every process that runs the same file."""
    key = where.source.encode("utf-8", "surrogateescape") + b"\0" + content
    return f"_named_code_{_sha256(key)[:24]}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
