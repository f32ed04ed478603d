"""One bad image costs one reward."""

import functools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import RewardResult, make_reward, score

BATCH = 64


class Scorer:
    """Rewards an image with its first pixel, counts its calls, and can have an accident."""

    name = "first_pixel"
    version = "1"

    def __init__(self, accident: Callable[[Tensor, int], Tensor] | None = None) -> None:
        self.calls: list[int] = []
        self._accident = accident

    def __call__(self, images, prompts):
        self.calls.append(len(images))
        assert len(prompts) == len(images)
        values = images[:, 0, 0, 0].clone()
        if self._accident is not None:
            values = self._accident(values, len(self.calls))
        return RewardResult.from_values(values, {"half": values / 2})


def batch() -> tuple[Tensor, list[str]]:
    """Images whose first pixels are 0/64 ... 63/64."""
    images = torch.full((BATCH, 3, 8, 8), 0.5)
    images[:, 0, 0, 0] = torch.arange(BATCH) / BATCH
    return images, [f"prompt {row}" for row in range(BATCH)]


def assert_all_right_except(result: RewardResult, *broken: int) -> None:
    expected = torch.arange(BATCH) / BATCH
    valid = torch.ones(BATCH, dtype=torch.bool)
    valid[list(broken)] = False
    expected[~valid] = 0.0
    assert torch.equal(result.valid, valid)
    assert torch.equal(result.values, expected)


@pytest.mark.parametrize("pixel", [math.nan, math.inf, -math.inf, -0.5, 1.5])
def test_a_broken_image_is_never_scored(pixel: float) -> None:
    images, prompts = batch()
    images[7, 1, 3, 3] = pixel
    scorer = Scorer()
    result = score(scorer, images, prompts)
    assert_all_right_except(result, 7)
    assert scorer.calls == [63]
    assert result.terms["half"].isnan().nonzero().flatten().tolist() == [7]


def test_one_nan_of_64_costs_one_call_and_one_retry() -> None:
    scorer = Scorer(lambda values, call: torch.where(values == 7 / 64, torch.nan, values))
    result = score(scorer, *batch())
    assert_all_right_except(result, 7)
    assert scorer.calls == [64, 1]


def test_a_passing_failure_is_made_good_by_the_retry() -> None:
    scorer = Scorer(
        lambda values, call: torch.where((values < 3 / 64) & (call == 1), torch.inf, values)
    )
    assert_all_right_except(score(scorer, *batch()))
    assert scorer.calls == [64, 3]


def raise_for(*rows: int) -> Callable[[Tensor, int], Tensor]:
    def accident(values: Tensor, call: int) -> Tensor:
        if torch.isin(values * BATCH, torch.tensor([float(row) for row in rows])).any():
            raise RuntimeError("cannot read this image")
        return values

    return accident


def test_an_error_is_narrowed_down_to_its_image() -> None:
    scorer = Scorer(raise_for(7))
    with pytest.warns(RuntimeWarning, match="'first_pixel' raised RuntimeError: cannot read this"):
        result = score(scorer, *batch())
    assert_all_right_except(result, 7)
    # The batch, two halves at each of log2(64) = 6 levels, and one retry of the image.
    assert len(scorer.calls) == 1 + 2 * 6 + 1


def test_several_kinds_of_failure_at_once() -> None:
    images, prompts = batch()
    images[0] = torch.nan
    scorer = Scorer(raise_for(20, 50))
    with pytest.warns(RuntimeWarning, match="cannot read"):
        assert_all_right_except(score(scorer, images, prompts), 0, 20, 50)


def test_an_error_that_hits_every_image_is_told_and_none_is_valid() -> None:
    images, prompts = batch()
    accidents = []
    scorer = Scorer(lambda values, call: accidents[0](values, call) if accidents else values)
    score(scorer, images, prompts)  # it has worked once: what follows is an accident
    accidents.append(raise_for(*range(BATCH)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = score(scorer, images, prompts)
    assert not result.valid.any()
    assert not result.values.any()
    assert result.terms == {}
    assert len(caught) == 1
    message = str(caught[0].message)
    assert f"RuntimeError: cannot read this image ({__file__}, line " in message


def test_an_error_for_every_image_of_the_first_call_is_raised_with_its_cause() -> None:
    for _ in range(2):  # it has still not worked after the first time
        scorer = Scorer(raise_for(*range(BATCH)))
        with pytest.raises(
            InvalidInputError, match=r"RuntimeError: cannot read this image.*each of 64 images"
        ) as caught:
            score(scorer, *batch())
        assert str(caught.value.__cause__) == "cannot read this image"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(Scorer(), *batch())  # another reward is another matter


def test_a_reward_without_weak_references_is_scored_like_any() -> None:
    class Slotted:
        __slots__ = ()
        name = "slotted"
        version = "1"

        def __call__(self, images, prompts):
            return images.mean((1, 2, 3))

    assert score(Slotted(), *batch()).valid.all()


class Foreign:
    """A reward of another signature, and, as those of ddpo-pytorch, with a pair as its result."""

    def __call__(self, images, prompts, details):
        return images.mean((1, 2, 3)), {}

    def method(self, images, prompts, details):
        return self(images, prompts, details)


@pytest.mark.parametrize(
    "function",
    [
        lambda images, prompts, details: images.mean((1, 2, 3)),
        lambda images: images.mean((1, 2, 3)),
        Foreign(),
        Foreign().method,
        functools.partial(Foreign(), other=3),
    ],
)
def test_a_reward_of_another_signature_is_an_error_that_says_so(function) -> None:
    with pytest.raises(InvalidInputError, match=r"called as reward\(images, prompts\)") as caught:
        score(make_reward(function), *batch())
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    "function", [functools.partial(Foreign(), details={}), lambda i, p: ([0.0] * BATCH, [{}])]
)
def test_a_pair_of_rewards_and_metadata_is_refused(function) -> None:
    with pytest.raises(InvalidInputError, match=r"return values of shape \[64\].*got tuple"):
        score(make_reward(function), *batch())


def test_a_reward_without_a_finite_number_is_told() -> None:
    scorer = Scorer(lambda values, call: values * torch.nan)
    with pytest.warns(RuntimeWarning, match="gave a finite number for none of 64 images"):
        assert not score(scorer, *batch()).valid.any()


def test_images_of_nan_are_told_with_what_helps() -> None:
    images, prompts = batch()
    images[:5] = torch.nan
    scorer = Scorer()
    with pytest.warns(RuntimeWarning, match=r'5 of 64 images hold NaN.*"vae_dtype": "float32"'):
        assert_all_right_except(score(scorer, images, prompts), *range(5))
    with pytest.warns(RuntimeWarning, match="64 of 64 images hold NaN"):
        assert not score(scorer, images * torch.nan, prompts).valid.any()


def test_nothing_but_images_of_nan_at_first_is_an_error() -> None:
    scorer = Scorer()
    with pytest.raises(InvalidInputError, match=r'2 of 2 images hold NaN.*"vae_dtype": "float32"'):
        score(scorer, torch.full((2, 3, 8, 8), torch.nan), ["x", "y"])
    assert scorer.calls == []


def test_prompts_that_a_reward_rejects_are_raised(compose) -> None:
    images = compose("white").expand(2, -1, -1, -1)
    with pytest.raises(InvalidInputError, match="'a dragon' is not a caption"):
        score(make_reward("house_style"), images, ["a cat", "a dragon"])


def test_a_wrong_shape_is_raised() -> None:
    with pytest.raises(
        InvalidInputError, match=r"'first_pixel' must return values of shape \[64\]"
    ):
        score(Scorer(lambda values, call: values[:3]), *batch())


def test_rounding_of_low_precision_is_no_failure() -> None:
    images, prompts = batch()
    images[0, 0, 1, 1] = 1.0 + 5e-4
    images = images.bfloat16()
    result = score(Scorer(), images, prompts)
    assert result.valid.all()
    assert result.values.dtype == torch.float32


def test_a_batch_of_broken_images_has_no_terms() -> None:
    scorer = Scorer()
    result = score(scorer, torch.full((2, 3, 8, 8), 3.0), ["x", "y"])
    assert (result.valid.tolist(), result.terms, scorer.calls) == ([False, False], {}, [])


def test_a_reward_can_declare_an_image_invalid() -> None:
    class Picky:
        name = "picky"
        version = "1"

        def __call__(self, images, prompts):
            return RewardResult(torch.ones(len(images)), images[:, 0, 0, 0] > 0.5)

    result = score(Picky(), *batch())
    assert torch.equal(result.valid, torch.arange(BATCH) > 32)
    assert torch.equal(result.values, result.valid.float())


@pytest.mark.parametrize(
    ("images", "count", "reason"),
    [
        (torch.zeros(2, 3, 8, 8), 1, "got 2 images and 1 prompts"),
        (torch.zeros(3, 8, 8), 3, r"shape \[B, 3, H, W\], got torch.float32 of shape \[3, 8, 8\]"),
        (torch.zeros(2, 8, 8, 3), 2, r"of shape \[2, 8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 2, "must be floats .* got torch.uint8"),
    ],
)
def test_bad_input_is_refused(images: Tensor, count: int, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        score(Scorer(), images, ["x"] * count)
