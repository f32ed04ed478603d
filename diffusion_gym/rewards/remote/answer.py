"""Rewards as JSON, where null stands for what is no finite number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError, one_line, shown
from diffusion_gym.rewards.base import RewardResult, check_name

MOST_WARNINGS = 10
"""Warnings that an answer hands on."""


def result_message(result: RewardResult, warnings: Sequence[str]) -> dict[str, Any]:
    """A result as a server sends it.

    Float32 numbers are written such that they are read back bit for bit.
    """
    valid = result.valid.tolist()
    values = _with_null(result.values)
    return {
        "values": [value if ok else None for value, ok in zip(values, valid, strict=True)],
        "valid": valid,
        "terms": {name: _with_null(column) for name, column in result.terms.items()},
        "warnings": [one_line(warning) for warning in warnings[:MOST_WARNINGS]],
    }


def read_result(message: Mapping[str, Any], count: int) -> RewardResult:
    """The result that a server sent.

    Args:
        message: The server's.
        count: B, the number of images.

    Raises:
        InvalidInputError: It is none, or not of B images.
    """
    valid, terms = message.get("valid"), message.get("terms")
    if not isinstance(valid, list) or len(valid) != count or set(map(type, valid)) - {bool}:
        raise InvalidInputError(f"expected valid as {count} of true and false, got {shown(valid)}")
    if not isinstance(terms, dict):
        raise InvalidInputError(f"expected terms as a JSON object, got {shown(terms)}")
    for name in terms:
        check_name("terms", name)
    values = _numbers("values", message.get("values"), count)
    result = RewardResult(
        values,
        torch.tensor(valid),
        {name: _numbers(shown(name), column, count) for name, column in terms.items()},
    )
    if bool((result.valid & values.isnan()).any()):
        raise InvalidInputError("expected a number wherever valid is true, got null")
    return result


def read_warnings(message: Mapping[str, Any]) -> list[str]:
    """The warnings that a server hands on."""
    warnings = message.get("warnings", [])
    if not isinstance(warnings, list):
        raise InvalidInputError(f"expected warnings as a list of texts, got {shown(warnings)}")
    return [one_line(str(warning)) for warning in warnings[:MOST_WARNINGS]]


def joined(results: Sequence[RewardResult]) -> RewardResult:
    """The results of the parts of a batch as one; a term that a part lacks is NaN there."""
    names = dict.fromkeys(name for result in results for name in result.terms)
    return RewardResult(
        torch.cat([result.values for result in results]),
        torch.cat([result.valid for result in results]),
        {
            name: torch.cat(
                [
                    result.terms.get(name, torch.full_like(result.values, torch.nan))
                    for result in results
                ]
            )
            for name in names
        },
    )


def _with_null(column: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.float().tolist()]


def _numbers(what: str, numbers: Any, count: int) -> Tensor:
    """One float32 number per image [B], NaN for null."""
    if not isinstance(numbers, list) or len(numbers) != count:
        raise InvalidInputError(
            f"expected {what} as a list of {count} numbers, one per image, got {shown(numbers)}"
        )
    if not all(type(number) in (int, float, type(None)) for number in numbers):
        raise InvalidInputError(f"expected {what} as numbers or null, got {shown(numbers)}")
    try:
        column = torch.tensor([math.nan if number is None else float(number) for number in numbers])
    except OverflowError:  # an integer beyond the largest float
        column = torch.tensor([math.inf])
    if bool(column.isinf().any()):
        raise InvalidInputError(f"expected {what} in the range of float32, got {shown(numbers)}")
    return column
