"""Trees of plain values and tensors as JSON and named tensors, exactly, and without code.

What cannot be written as plain JSON is written as an object with one tag:

=====================  ==========================================================
``{"$tuple": [...]}``  a tuple
``{"$pairs": [...]}``  a dictionary with keys that are no texts, as [key, value]
``{"$float": "nan"}``  a number that JSON does not have: nan, inf, -inf
``{"$array": [...]}``  a NumPy array of numbers, with its ``dtype``
``{"$tensor": name}``  a tensor that is kept elsewhere, under that name
=====================  ==========================================================

Reading builds these and nothing else, whoever wrote the file. JSON's numbers are exact: floats are
written with as many digits as tell them apart, whole numbers in full.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from diffusion_gym.errors import InvalidInputError

DTYPES = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
DTYPES += ("float16", "float32", "float64")
"""What arrays may hold."""

MAX_DEPTH = 64


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree as JSON can have it, and its tensors by the names of their places.

    Args:
        tree: Dictionaries, lists, tuples, None, truth values, numbers, texts, arrays, tensors.

    Returns:
        The plain tree, and copies of the tensors in the host's memory, which share nothing.

    Raises:
        InvalidInputError: There is something else in it; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    return _plain(tree, "", tensors), tensors


def unflatten(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `flatten` took apart.

    Raises:
        InvalidInputError: A tag is malformed, or a tensor is missing.
    """
    try:
        return _tree(plain, tensors, 0)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"expected values as a checkpoint holds them, got {type(error).__name__}: {error}"
        ) from error


def _plain(tree: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    match tree:
        case None | bool() | str():
            return tree
        case int():
            return int(tree)
        case float():
            return float(tree) if math.isfinite(tree) else {"$float": repr(float(tree))}
        case np.generic():
            return _plain(tree.item(), place, tensors)
        case Tensor():
            tensors[place] = tree.detach().to("cpu", copy=True).contiguous()
            return {"$tensor": place}
        case np.ndarray() if tree.dtype.name in DTYPES:
            values = _plain(tree.tolist(), place, tensors)
            return {"$array": values, "dtype": tree.dtype.name, "shape": list(tree.shape)}
        case tuple():
            return {"$tuple": _plain(list(tree), place, tensors)}
        case list() | deque():
            return [_plain(value, _below(place, i), tensors) for i, value in enumerate(tree)]
        case Mapping():
            if all(isinstance(key, str) and not key.startswith("$") for key in tree):
                return {k: _plain(v, _below(place, k), tensors) for k, v in tree.items()}
            pairs = [
                [_plain(k, f"{place} (key)", tensors), _plain(v, _below(place, k), tensors)]
                for k, v in tree.items()
            ]
            return {"$pairs": pairs}
    raise InvalidInputError(
        "expected numbers, texts, arrays, tensors, and lists and dictionaries of them, which a "
        f"file can hold, got {type(tree).__name__} at {place or 'the top'}"
    )


def _below(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _tree(plain: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels of nesting")
    if isinstance(plain, list):
        return [_tree(value, tensors, depth + 1) for value in plain]
    if not isinstance(plain, dict):
        return plain
    tag = next(iter(plain), "")
    if not tag.startswith("$"):
        return {key: _tree(value, tensors, depth + 1) for key, value in plain.items()}
    value = plain[tag]
    match tag:
        case "$tuple":
            return tuple(_tree(value, tensors, depth + 1))
        case "$pairs":
            return {
                _tree(key, tensors, depth + 1): _tree(item, tensors, depth + 1)
                for key, item in value
            }
        case "$float":
            return float(value)
        case "$array":
            return _array(_tree(value, tensors, depth + 1), plain["dtype"], plain["shape"])
        case "$tensor":
            return tensors[value]
    raise ValueError(f"unknown tag {tag!r}")


def _array(values: Any, dtype: str, shape: list[int]) -> np.ndarray[Any, Any]:
    if dtype not in DTYPES:
        raise ValueError(f"an array of {dtype!r}")
    return np.array(values, dtype=dtype).reshape(shape)
