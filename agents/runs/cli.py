"""Command lines made from checked dataclasses, by tyro, with errors that a person can read."""

import ast
import dataclasses
import inspect
import itertools
import json
import sys
import textwrap
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import gymnasium as gym
import tyro
from rich.console import Console
from tyro.constructors import PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec

from agents.common.processes import ElsewhereError, ProcessLostError
from agents.runs.screen import say
from diffusion_gym.checks import Range, checked
from diffusion_gym.errors import DiffusionGymError, shown
from diffusion_gym.parsing import parse as parse_text

Options = TypeVar("Options")

REGISTRY = tyro.constructors.ConstructorRegistry()


def parse(
    options: type[Options],
    arguments: Sequence[str] | None,
    *,
    command: str,
    description: str | None,
    default: Options | None = None,
) -> Options:
    """Reads a command line; every option is checked as its field is.

    Args:
        options: The dataclass, of `Checked` fields or of such dataclasses.
        arguments: The arguments; None: the process's own.
        command: How the command is called, for its help.
        description: What it does.
        default: What is not given; None: the fields' own defaults.

    Raises:
        SystemExit: After ``--help`` (status 0), or an option that cannot be read (status 2).
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    with REGISTRY:
        parsed: Options = tyro.cli(
            options,
            args=None if arguments is None else list(arguments),
            prog=command,
            description=None if description is None else _wrapped(description),
            config=(tyro.conf.OmitArgPrefixes,),
            **given,
        )
    return parsed


def _wrapped(text: str) -> str:
    """Paragraphs with lines as long as the terminal's, which would else break words.

    Lines begin with a space: tyro joins those that begin with a letter.
    """
    wrapper = textwrap.TextWrapper(
        width=Console().width,
        initial_indent=" ",
        subsequent_indent=" ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    paragraphs = inspect.cleandoc(text).replace("``", "").split("\n\n")
    return "\n\n".join(map(wrapper.fill, paragraphs))


def parse_known(options: type[Options], arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Reads some options of a command line, and returns them with the arguments that are left."""
    with REGISTRY:
        return tyro.cli(options, args=list(arguments), return_unknown_args=True, add_help=False)


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Runs a command; the user's mistakes end it with one paragraph and exit status 2.

    What another process reports is not said again.
    """
    try:
        status = main(None)
    except ElsewhereError:
        time.sleep(1)  # a launcher ends all where one has ended: let the other speak first
        status = 2
    except ProcessLostError as error:
        say(Console(stderr=True), str(error), heading="error:", style="bold red")
        status = 1
    except (DiffusionGymError, gym.error.Error, OSError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        say(Console(stderr=True), text, heading="error:", style="bold red")
        status = 2
    except KeyboardInterrupt:
        say(Console(stderr=True), "interrupted", style="bold")
        status = 130
    sys.exit(status)


@REGISTRY.struct_rule
def _fields(info: tyro.constructors.StructTypeInfo) -> StructConstructorSpec | None:
    """Options of a dataclass: named, explained, bounded and read as its fields say."""
    if not dataclasses.is_dataclass(info.type):
        return None
    given = info.default if isinstance(info.default, info.type) else None
    kind = info.type if given is None else type(given)  # which may have more than its base
    hints = typing.get_type_hints(kind, include_extras=True)
    explained = explanations(kind)
    return StructConstructorSpec(
        instantiate=kind,
        fields=tuple(
            StructFieldSpec(
                name=item.name,
                type=_readable(item.name, hints[item.name]),
                default=_default(item) if given is None else getattr(given, item.name),
                helptext=explained.get(item.name),
            )
            for item in dataclasses.fields(kind)
        ),
    )


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return tyro.MISSING


def explanations(kind: type[Any]) -> dict[str, str]:
    """The texts below the fields of a dataclass and its bases, by the fields' names."""
    texts: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if dataclasses.is_dataclass(part):
            texts |= _own_explanations(part)
    return texts


def _own_explanations(kind: type[Any]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _readable(name: str, kind: Any) -> Any:
    """The type of a field as tyro reads it: by our own checks, but for flags and named choices."""
    if _is_own(kind) or kind is bool:
        return kind
    alternatives = _alternatives(kind)
    if all(typing.get_origin(one) is Literal for one in alternatives):
        return kind
    spec: PrimitiveConstructorSpec[Any] = PrimitiveConstructorSpec(
        nargs=1,
        metavar=_metavar(kind),
        instance_from_str=lambda arguments: from_text(name, arguments[0], kind),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [_as_text(value)],
    )
    return Annotated[kind, spec]


def _is_own(kind: Any) -> bool:
    """Whether a type is a dataclass, or carries tyro's own marks."""
    if dataclasses.is_dataclass(kind):
        return True
    notes = typing.get_args(kind)[1:] if typing.get_origin(kind) is Annotated else ()
    return any(not isinstance(note, Range) for note in notes)


def from_text(name: str, text: str, kind: Any) -> Any:
    """A value from the text of an argument or a cell.

    Args:
        name: What it is, for messages.
        text: Words, a number, "none", names with commas between them, or JSON.
        kind: Its type, as a field of `Checked` is annotated with.

    Raises:
        InvalidInputError: It is none of that type, or outside its range.
    """
    kinds = [typing.get_origin(one) or one for one in map(_bare, _alternatives(kind))]
    if types.NoneType in kinds and text.lower() == "none":
        return None
    value: Any = text
    if text[:1] in "{[" and (Mapping in kinds or Sequence in kinds):
        value = _json(name, text)
    elif Sequence in kinds and str not in kinds:
        value = [word.strip() for word in text.split(",")]
        if not all(value):
            raise ValueError(
                f"expected {name} as names with commas between them, got {shown(text)}"
            )
        if Sequence[int] in map(_bare, _alternatives(kind)):
            value = [_number(word) for word in value]
    elif int in kinds or float in kinds:
        value = _number(text)
    return checked(name, value, kind)


def _json(name: str, text: str) -> Any:
    try:
        return parse_text(json.loads, text)
    except ValueError as error:
        raise ValueError(f"expected {name} as JSON, got {shown(text)}: {error}") from error


def _number(text: str) -> Any:
    """The number that a text shows; any other text as it is, for `checked` to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _alternatives(kind: Any) -> tuple[Any, ...]:
    bare = _bare(kind)
    is_union = isinstance(bare, types.UnionType) or typing.get_origin(bare) is typing.Union
    return typing.get_args(bare) if is_union else (kind,)


def _bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


_METAVARS: Mapping[Any, str] = {
    int: "INT",
    float: "FLOAT",
    str: "TEXT",
    Mapping: "JSON",
    Sequence: "NAME,…",
    Sequence[int]: "INT,…",
    types.NoneType: "none",
}


def _metavar(kind: Any) -> str:
    """A type and its range in a few letters, such as ``INT≥1`` or ``none|FLOAT>0``."""
    limits = _limits(kind)
    words: list[str] = []
    origins = [typing.get_origin(_bare(one)) or _bare(one) for one in _alternatives(kind)]
    for one, origin in zip(_alternatives(kind), origins, strict=True):
        if origin is Literal:
            words.extend(typing.get_args(one))
        elif origin is Sequence and str in origins:
            words.append("JSON")
        elif origin in _METAVARS:
            word = _METAVARS.get(_bare(one), _METAVARS[origin])
            words.append(f"{word}{_short(_limits(one) or limits)}")
    return "|".join(sorted(words, key=lambda word: word != "none"))


def _limits(kind: Any) -> Range | None:
    notes = typing.get_args(kind)[1:] if typing.get_origin(kind) is Annotated else ()
    return next((note for note in notes if isinstance(note, Range)), None)


def _short(limits: Range | None) -> str:
    if limits is None:
        return ""
    if limits.high < float("inf"):
        return f"[{limits.low:g}…{limits.high:.10g}]"
    return f">{limits.above:g}" if limits.above > float("-inf") else f"≥{limits.low:g}"


def _as_text(value: Any) -> str:
    """What would have to be typed for a value, for the defaults in the help."""
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
