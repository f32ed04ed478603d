"""Weighted sums of rewards."""

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
        ({"jpeg_compressibility": float("nan")}, "finite number, got nan"),
        ({"jpeg_compressibility": "1"}, "finite number, got '1'"),
    ],
)
def test_bad_weights_are_refused(spec: dict, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        make_reward(spec)
