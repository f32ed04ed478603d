"""Options as dataclasses that check themselves: name, type, range, default and meaning at once.

A field's annotation is its check, whoever fills it in: a keyword argument, a command line, a file.

>>> @dataclass(frozen=True)
... class Options(Checked):
...     images: Count = 64
...     rate: Positive = 1e-4
>>> Options(images=0)
Traceback (most recent call last):
diffusion_gym.errors.InvalidInputError: expected images to be a whole number of at least 1, got 0
"""

import dataclasses
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np

from diffusion_gym.errors import InvalidInputError, shown, unknown_keyword, unknown_name

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range:
    """The numbers that a field may hold; infinities and NaN never.

    Attributes:
        low: The least.
        high: The largest.
        above: What all must exceed, for ranges without a least number.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and value > self.above

    def __str__(self) -> str:
        parts = []
        if self.low > -math.inf:
            parts.append(f"of at least {self.low:g}")
        if self.above > -math.inf:
            parts.append(f"above {self.above:g}")
        if self.high < math.inf:
            parts.append(f"of at most {self.high:.10g}")
        return " and ".join(parts)


Count = Annotated[int, Range(low=1)]
CountOrNone = Annotated[int, Range(low=0)]
"""A number of things of which there may be none."""

Seed = Annotated[int, Range(low=0, high=2**32 - 1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(low=0, high=1)]

RateOrSchedule = Annotated[float | Callable[[float], float], Range(above=0)]
"""A positive number, or a function of the remaining progress (1 → 0), as Stable-Baselines3 has."""


class Checked:
    """Base of the dataclasses whose fields are checked, and converted, by their annotations.

    A whole number serves as a float, a NumPy number as Python's, a path as a text; a list or tuple
    becomes a tuple, so that options that went through JSON equal those that did not.
    """

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidInputError: A value is of another type or outside its range.
        """
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(typing.cast(Any, self)):
            value = checked(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], owner: str | None = None) -> Self:
        """The dataclass of keyword arguments.

        Args:
            options: Values by name.
            owner: Who takes them, for messages; None: the class itself.

        Raises:
            UnknownKeywordError: There is no such field.
            InvalidInputError: A value is of another type or outside its range.
        """
        known = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
        for name in options:
            if name not in known:
                raise unknown_keyword(owner or cls.__name__, name, known)
        return cls(**options)


def takes(options: type[Checked]) -> Callable[[_Function], _Function]:
    """Shows the fields of a dataclass in the signature of a function that has ``**options``."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(options, include_extras=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in dataclasses.fields(typing.cast(Any, options))
        ]
        signature = signature.replace(parameters=[*own, *fields])
        typing.cast(Any, function).__signature__ = signature
        return function

    return decorate


def checked(name: str, value: Any, kind: Any) -> Any:
    """A value as a type has it.

    Args:
        name: What it is, for messages.
        value: The value.
        kind: A type as a field of `Checked` is annotated with.

    Raises:
        InvalidInputError: It is none of that type, or outside its range.
    """
    kind, limits = _bare(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        alternatives = typing.get_args(kind)
    else:
        alternatives = (kind,)
    for alternative in alternatives:
        bare, own = _bare(alternative)
        converted = _converted(value, bare)
        if converted is not _NO:
            _check_range(name, converted, bare, own or limits)
            return converted
    (first, *_) = alternatives
    if typing.get_origin(first) is Literal:
        raise unknown_name(name, value, map(str, typing.get_args(first)))
    raise _expected(name, " or ".join(describe(kind) for kind in alternatives), limits, value)


def whole_numbers(name: str, value: Any, count: int | None = None) -> np.ndarray[Any, Any]:
    """Whole numbers ``[N]`` as an array of integers.

    Args:
        name: What they are, for messages.
        value: A tensor, an array or a list.
        count: N; None leaves it open.

    Raises:
        InvalidInputError: They are something else, or not N.
    """
    try:
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except (TypeError, ValueError, RuntimeError):  # of different lengths, or not to be read
        array = np.empty((), object)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise _expected(name, "a list of whole numbers", None, value)
    if count is not None and len(array) != count:
        raise InvalidInputError(f"expected {name} to be {count} whole numbers, got {len(array)}")
    return array


def describe(kind: Any) -> str:
    """A type in words, for messages."""
    bare, limits = _bare(kind)
    if typing.get_origin(bare) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(bare)))}"
    words = _WORDS.get(bare) or _WORDS.get(typing.get_origin(bare), str(bare))
    return f"{words} {limits}" if limits else words


_NO = object()
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    types.NoneType: "None",
    Mapping: "a mapping from names to values",
    Sequence: "a list",
    Sequence[int]: "a list of whole numbers",
    Callable: "a function",
}


def _bare(kind: Any) -> tuple[Any, Range | None]:
    """A type without its annotations, and the range among them."""
    if typing.get_origin(kind) is not Annotated:
        return kind, None
    bare, *notes = typing.get_args(kind)
    return bare, next((note for note in notes if isinstance(note, Range)), None)


def _converted(value: Any, kind: Any) -> Any:
    """The value as one type that is no union has it; `_NO` where it is none of that type."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value if isinstance(value, str) and value in typing.get_args(kind) else _NO
    if kind is types.NoneType:
        return None if value is None else _NO
    if kind is bool:
        return bool(value) if isinstance(value, bool | np.bool_) else _NO
    if kind in (int, float):
        wanted = numbers.Integral if kind is int else numbers.Real
        fits = isinstance(value, wanted) and not isinstance(value, bool | np.bool_)
        try:
            return kind(value) if fits else _NO
        except OverflowError:  # an integer beyond the largest float
            return _NO
    if kind is str:
        text = os.fspath(value) if isinstance(value, str | os.PathLike) else _NO
        return text if isinstance(text, str) and _is_text(text) else _NO
    if origin is Mapping:
        return dict(value) if isinstance(value, Mapping) and _all_text(value) else _NO
    if origin is Sequence:
        if not isinstance(value, list | tuple):
            return _NO
        (item,) = typing.get_args(kind)
        if item is int:
            items = [_converted(one, int) for one in value]
            return _NO if any(one is _NO for one in items) else tuple(items)
        return tuple(value) if item is not str or _all_text(value) else _NO
    if origin is Callable:
        return value if callable(value) else _NO
    return value


def _is_text(text: str) -> bool:
    """Whether a text says something, in characters that any name or path may have."""
    try:
        return bool(text.strip()) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _all_text(values: Any) -> bool:
    return isinstance(values, Mapping | list | tuple) and all(isinstance(v, str) for v in values)


def _check_range(name: str, value: Any, kind: Any, limits: Range | None) -> None:
    if kind not in (int, float):
        return
    if (kind is float and not math.isfinite(value)) or (limits is not None and value not in limits):
        raise _expected(name, _WORDS[kind], limits, value)


def _expected(name: str, words: str, limits: Range | None, value: Any) -> InvalidInputError:
    wanted = f"{words} {limits}" if limits else words
    return InvalidInputError(f"expected {name} to be {wanted}, got {shown(value)}")
