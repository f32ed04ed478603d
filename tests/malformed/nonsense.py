"""Values that mean nothing, and what judges how they are refused."""

import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from diffusion_gym.errors import DiffusionGymError

REFUSALS = (DiffusionGymError, gym.error.Error)
"""What a refusal may be: an error of ours, or one that Gymnasium documents."""

LONGEST = 1_200
"""Characters of the longest message that a person reads."""

SAYS = re.compile(
    r"expected|must|unknown|unexpected|cannot|known:|not supported|started with"
    r"|is not|does not|belongs|has no|is for|share|there is no such"
    r"|Missing|Unrecognized|choice"  # of tyro
)
"""What every message has: it says what is wanted or what is wrong."""


def nested(depth: int, *, kind: type) -> Any:
    """A list or a dictionary that holds one that holds one …"""
    value: Any = kind()
    for _ in range(depth):
        value = [value] if kind is list else {"x": value}
    return value


def _itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _function(*_: Any) -> str:
    return "x"


NONSENSE: Mapping[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "-1": -1,
    "0": 0,
    "1": 1,
    "1.5": 1.5,
    "-0.5": -0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "10**30": 10**30,
    "10**5000": 10**5000,
    "-10**5000": -(10**5000),
    "complex": 1j,
    "Decimal": Decimal("1.5"),
    "Fraction": Fraction(3, 2),
    "no text": "",
    "blanks": " \t\n",
    "x": "x",
    "two lines": "x\ny",
    "NUL": "x\0y",
    "half a surrogate pair": "x\ud800",
    "long text": "x" * 100_000,
    "long path": "x/" * 5_000 + "x",
    "dots": "../..",
    "no such user": "~no_such_user/x",
    "Path": Path("x"),
    "bytes": b"x",
    "[]": [],
    "[None]": [None],
    "[[]]": [[]],
    "['']": [""],
    "lists of different lengths": [[1], [1, 2]],
    "long list": list(range(100_000)),
    "()": (),
    "{}": {},
    "{1: 2}": {1: 2},
    "{None: None}": {None: None},
    "{'x': nan}": {"x": float("nan")},
    "{long text: 1}": {"x" * 100_000: 1},
    "set": {"x"},
    "range": range(2),
    "object": object(),
    "type": dict,
    "function": _function,
    "module": types,
    "np.int64(2)": np.int64(2),
    "np.int64(-1)": np.int64(-1),
    "np.float32(nan)": np.float32("nan"),
    "np.float64(1.5)": np.float64(1.5),
    "np.bool_": np.bool_(True),
    "np.str_": np.str_("x"),
    "np.datetime64": np.datetime64("2020-01-01"),
    "array of floats": np.zeros(3),
    "array of texts": np.array(["x"]),
    "array of objects": np.array([None, object()], object),
    "array of nothing": np.array([]),
    "array of no dimension": np.array(1),
    "structured array": np.zeros(2, [("x", int)]),
    "tensor": torch.zeros(2),
    "tensor of no dimension": torch.tensor(1),
    "tensor of NaN": torch.tensor([float("nan")] * 2),
    "tensor on meta": torch.zeros(2, device="meta"),
    "sparse tensor": torch.zeros(2, 2).to_sparse(),
    "complex tensor": torch.zeros(2, dtype=torch.complex64),
    "nested dictionaries": nested(2_000, kind=dict),
    "nested lists": nested(2_000, kind=list),
    "a list that holds itself": _itself(),
}
"""Wrong kinds of values by what they are called in a report."""

UNCOPYABLE = ("nested dictionaries", "nested lists", "module")
"""Of these, what Python's ``copy.deepcopy``, which `gymnasium.make` calls, cannot copy."""


@dataclass
class Judge:
    """Tries cases, and collects what is wrong with how they end."""

    violations: list[str] = field(default_factory=list)

    def refused(self, case: str, call: Callable[..., Any], *given: Any, **named: Any) -> None:
        """Whatever is not refused in words is a violation."""
        try:
            result = call(*given, **named)
        except REFUSALS as error:
            self.says(case, str(error))
        except Exception as error:
            self._raw(case, error)
        else:
            self.violations.append(f"{case}: accepted as {_short(result)}")

    def obeyed(self, case: str, wanted: Any, call: Callable[..., Any], *given: Any) -> None:
        """Whatever does not give what is wanted is a violation."""
        try:
            result = call(*given)
        except REFUSALS as error:
            self.violations.append(f"{case}: refused though it makes sense: {str(error)[:200]}")
        except Exception as error:
            self._raw(case, error)
        else:
            if result != wanted:
                self.violations.append(f"{case}: {_short(result)} instead of {_short(wanted)}")

    def says(self, case: str, text: str, longest: int = LONGEST) -> None:
        """A message that is empty, too long or not to be printed is a violation."""
        if not SAYS.search(text):
            self.violations.append(f"{case}: says too little: {text[:200]!r}")
        if len(text) > longest:
            self.violations.append(f"{case}: {len(text)} characters: {text[:200]!r}…")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self.violations.append(f"{case}: cannot be printed: {text[:200]!r}")

    def same(self, case: str, before: Any, after: Any) -> None:
        """What changed although it must not is a violation."""
        if before != after:
            self.violations.append(f"{case}: changed {_short(before)} to {_short(after)}")

    def settle(self) -> None:
        """Fails with all violations at once."""
        shown = "\n".join(self.violations)
        assert not self.violations, f"{len(self.violations)} violations:\n{shown}"

    def _raw(self, case: str, error: Exception) -> None:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = "" if frame is None else f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
        text = str(error)[:150]
        self.violations.append(f"{case}: raw {type(error).__name__} at {where}: {text}")


def all_but(*accepted: str) -> Iterable[str]:
    """The names of the nonsense that is nonsense here, too."""
    unknown = set(accepted) - set(NONSENSE)
    assert not unknown, unknown
    return [name for name in NONSENSE if name not in accepted]


def _short(value: Any) -> str:
    try:
        return repr(value)[:200]
    except (RecursionError, ValueError):
        return type(value).__name__
