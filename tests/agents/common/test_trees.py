"""Values come back from a file bit for bit; nothing else goes in, nothing else comes out."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agents.common.trees import DTYPES, flatten, unflatten
from diffusion_gym.errors import InvalidInputError

KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.tuples(st.integers(), st.text()))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**63, 2**128),
    st.floats(),
    st.text(),
    st.sampled_from(DTYPES).flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0))),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(st.sampled_from(["$tuple", "$tensor", "a.b", ""]), inner),
    ),
    max_leaves=12,
)


def through_a_file(tree: Any) -> Any:
    plain, tensors = flatten(tree)
    text = json.dumps(plain, allow_nan=False)
    return unflatten(json.loads(text), tensors)


def equal(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and (np.array_equal(first, second, equal_nan=first.dtype.kind == "f"))
        )
    if isinstance(first, dict):
        return [*first] == [*second] and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, float):
        if math.isnan(first):
            return math.isnan(second)
        return first == second and math.copysign(1, first) == math.copysign(1, second)
    return bool(first == second)


@given(tree=TREES)
def test_every_tree_comes_back(tree: Any) -> None:
    assert equal(through_a_file(tree), tree)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool])
def test_tensors_keep_type_and_share_nothing(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    tree = {"rows": [tensor[0], tensor[0]], "turned": tensor.T, "one": tensor[0, 0]}
    plain, tensors = flatten(tree)
    back = unflatten(plain, tensors)
    assert torch.equal(back["turned"], tensor.T)
    assert back["turned"].is_contiguous()
    assert back["one"].dtype == dtype
    assert back["one"].shape == ()
    assert len({t.data_ptr() for t in tensors.values()}) == len(tensors) == 4


@pytest.mark.parametrize(
    "generator", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]
)
def test_generators_go_on(generator: Any) -> None:
    first, second = np.random.Generator(generator(1)), np.random.Generator(generator(2))
    first.integers(7)
    second.bit_generator.state = through_a_file(first.bit_generator.state)
    assert (first.random(5) == second.random(5)).all()


def test_pythons_generator_goes_on() -> None:
    first, second = random.Random(1), random.Random(2)
    first.gauss()
    second.setstate(through_a_file(first.getstate()))
    assert [first.gauss() for _ in range(4)] == [second.gauss() for _ in range(4)]


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", 1j, len, np.array(["text"]), np.array([None])]
)
def test_what_no_file_can_hold_is_named(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"got \w+ at options\.1\.deep"):
        flatten({"options": [0, {"deep": value}]})


@pytest.mark.parametrize(
    "plain",
    [
        {"$tuple": 5},
        {"$tuple": None},
        {"$pairs": [[1]]},
        {"$pairs": [[[], 1]]},
        {"$float": "one"},
        {"$float": []},
        {"$tensor": "nowhere"},
        {"$tensor": ["a list"]},
        {"$array": ["x"], "dtype": "float32", "shape": [1]},
        {"$array": [1], "dtype": "object", "shape": [1]},
        {"$array": [300], "dtype": "uint8", "shape": [1]},
        {"$array": [1], "dtype": ["list"], "shape": [1]},
        {"$array": [1], "dtype": "int8", "shape": [10**12]},
        {"$array": [1]},
        {"$call": "os.system"},
        json.loads("[" * 200 + "]" * 200),
    ],
)
def test_malformed_trees_are_refused(plain: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected values as a checkpoint holds them"):
        unflatten({"state": plain}, {})
