"""Weighted sums of rewards."""

import numpy as np
import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import RewardResult, make_reward, score
from diffusion_gym.rewards.composite import CompositeReward


def test_is_the_weighted_sum_with_all_terms(compose) -> None:
    images = torch.stack([compose("white", ("owl", "3d", 32, 32)), compose("red")])
    prompts = ["an owl", "a cat"]
    result = score(make_reward({"house_style": 2, "jpeg_compressibility": 0.5}), images, prompts)
    style = score(make_reward("house_style"), images, prompts)
    size = score(make_reward("jpeg_compressibility"), images, prompts)
    torch.testing.assert_close(result.values, 2 * style.values + 0.5 * size.values)
    expected = {
        "house_style": style.values,
        **{f"house_style/{name}": term for name, term in style.terms.items()},
        "jpeg_compressibility": size.values,
        "jpeg_compressibility/size_kb": size.terms["size_kb"],
    }
    assert list(result.terms) == list(expected)
    for name, term in expected.items():
        torch.testing.assert_close(result.terms[name], term)


def test_says_what_it_is_made_of() -> None:
    reward = make_reward({"jpeg_compressibility": 0.5, "jpeg_incompressibility": -1})
    assert reward.name == "0.5 jpeg_compressibility + -1 jpeg_incompressibility"
    assert reward.version == "jpeg_compressibility@1 + jpeg_incompressibility@1"


def test_an_image_is_valid_where_every_part_is() -> None:
    halves = {
        "first": make_reward(lambda images, _: images[:, 0, 0, 0].log()),
        "second": make_reward(lambda images, _: (1 - images[:, 0, 0, 0]).log()),
    }
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    result = score(CompositeReward(halves, {"first": 1.0, "second": 1.0}), images, ["x"] * 3)
    assert result.valid.tolist() == [False, True, False]
    assert result.values.tolist() == pytest.approx([0.0, 2 * torch.tensor(0.5).log().item(), 0.0])


def test_a_part_that_declares_an_image_invalid_makes_it_so() -> None:
    class Picky:
        name = "picky"
        version = "1"

        def __call__(self, images, prompts):
            return RewardResult(torch.ones(2), torch.tensor([True, False]))

    result = CompositeReward({"picky": Picky()}, {"picky": 3.0})(torch.zeros(2, 3, 8, 8), "ab")
    assert result.valid.tolist() == [True, False]
    assert result.values[0] == 3.0


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({}, "at least one name"),
        ({"beauty": 1.0}, "unknown reward 'beauty'"),
        *(
            (
                {"jpeg_compressibility": weight},
                f"y' to be a number, got {shown}",
            )
            for weight, shown in [
                (float("nan"), "nan"),
                (float("inf"), "inf"),
                (True, "True"),
                ("1", "'1'"),
                (None, "None"),
                (1j, "1j"),
            ]
        ),
        ({3: 1.0}, "unknown reward 3"),
    ],
)
def test_bad_weights_are_refused(spec: dict, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        make_reward(spec)


def test_numbers_of_numpy_are_weights() -> None:
    reward = make_reward({"jpeg_compressibility": np.float32(0.5), "house_style": np.int64(2)})
    assert reward.name == "0.5 jpeg_compressibility + 2 house_style"


def test_every_part_needs_its_weight() -> None:
    parts = {"a": make_reward("jpeg_compressibility"), "b": make_reward("jpeg_compressibility")}
    for weights in ({"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}):
        with pytest.raises(InvalidInputError, match="one weight for each of the rewards 'a', 'b'"):
            CompositeReward(parts, weights)


def blackens(images, prompts):
    """A reward with bad manners."""
    values = images.mean(dim=(1, 2, 3))
    images.zero_()
    if isinstance(prompts, list):
        prompts.clear()
    return values


@pytest.mark.parametrize("order", [("rude", "polite"), ("polite", "rude")])
def test_a_part_that_changes_the_images_spoils_no_other(order: tuple[str, str]) -> None:
    polite = make_reward(lambda images, prompts: images.mean(dim=(1, 2, 3)) * len(prompts))
    parts = {"rude": make_reward(blackens), "polite": polite}
    reward = CompositeReward({name: parts[name] for name in order}, dict.fromkeys(parts, 1.0))
    images, prompts = torch.full((2, 3, 8, 8), 0.5), ["x", "y"]
    result = reward(images, prompts)
    assert result.terms["rude"].tolist() == [0.5, 0.5]
    assert result.terms["polite"].tolist() == [1.0, 1.0]
    assert (images == 0.5).all()
    assert prompts == ["x", "y"]


def test_a_plain_reward_that_changes_the_images_changes_its_own_only() -> None:
    images = torch.full((2, 3, 8, 8), 0.5)
    assert score(make_reward(blackens), images, ["x", "y"]).values.tolist() == [0.5, 0.5]
    assert (images == 0.5).all()


def test_terms_of_the_same_name_are_refused() -> None:
    class Other:
        name = "other"
        version = "1"

        def __call__(self, images, prompts):
            return RewardResult.from_values(torch.ones(2), {"b": torch.ones(2)})

    plain = make_reward(lambda images, prompts: torch.ones(2))
    reward = CompositeReward({"a": Other(), "a/b": plain}, {"a": 1.0, "a/b": 1.0})
    with pytest.raises(InvalidInputError, match="different names, got twice: a/b"):
        reward(torch.zeros(2, 3, 8, 8), ["x", "y"])


def test_prompts_are_checked_by_the_parts_that_can() -> None:
    reward = make_reward({"jpeg_compressibility": 1.0, "house_style": 1.0})
    reward.check_prompts(["a cat", "two dogs on a red background"])
    with pytest.raises(InvalidInputError, match="'a dragon' is not a caption"):
        reward.check_prompts(["a cat", "a dragon"])
