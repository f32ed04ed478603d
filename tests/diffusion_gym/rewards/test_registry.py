"""Rewards by name, and a user's own."""

import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import (
    RewardFunction,
    RewardResult,
    make_reward,
    register_reward,
    reward_names,
    score,
)

IMAGES = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
PROMPTS = ["a cat", "a dog"]


def test_the_built_in_rewards_are_listed_and_can_be_made() -> None:
    with_weights = (
        "clip_score",
        "house_style",
        "jpeg_compressibility",
        "jpeg_incompressibility",
        "scene_alignment",
    )
    others = ("aesthetic", "hpsv2", "imagereward", "pickscore")
    assert reward_names() == tuple(sorted(with_weights + others))
    for name in with_weights:
        reward = make_reward(name)
        assert isinstance(reward, RewardFunction)
        assert reward.name == name
        assert reward.version == "1"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        InvalidInputError, match="unknown reward 'beauty'; known: aesthetic, clip_score, "
    ):
        make_reward("beauty")


def test_a_plain_function_becomes_a_reward_with_a_name() -> None:
    devices = []

    @register_reward("mean_brightness")
    def make_mean_brightness(device):
        devices.append(device)
        return lambda images, prompts: images.mean(dim=(1, 2, 3))

    assert "mean_brightness" in reward_names()
    reward = make_reward("mean_brightness", device="cpu")
    assert (devices, reward.name, reward.version) == (["cpu"], "mean_brightness", "1")
    result = score(reward, IMAGES, PROMPTS)
    assert result.values.tolist() == [0.25, 0.75]
    assert result.valid.tolist() == [True, True]
    assert result.terms == {}


def test_an_object_keeps_its_own_name_and_version_and_terms() -> None:
    class Brightness:
        name = "brightness"
        version = "7"

        def __call__(self, images, prompts):
            mean = images.mean(dim=(1, 2, 3))
            return RewardResult.from_values(2 * mean, {"mean": mean})

    register_reward("bright")(lambda device: Brightness())
    reward = make_reward("bright")
    assert (reward.name, reward.version) == ("brightness", "7")
    result = score(reward, IMAGES, PROMPTS)
    assert result.values.tolist() == [0.5, 1.5]
    assert result.terms["mean"].tolist() == [0.25, 0.75]


def test_a_function_can_be_given_instead_of_a_name() -> None:
    def brightness(images, prompts):
        return images.mean(dim=(1, 2, 3)).double()

    reward = make_reward(brightness)
    assert reward.name == "brightness"
    values = score(reward, IMAGES, PROMPTS).values
    assert values.dtype == torch.float32
    assert values.tolist() == [0.25, 0.75]
    assert make_reward(reward) is reward


def test_names_can_be_registered_again_but_built_in_ones_are_taken() -> None:
    for level in (1.0, 2.0):
        register_reward("constant")(
            lambda device, level=level: lambda images, _: images[:, 0, 0, 0] * 0 + level
        )
    assert score(make_reward("constant"), IMAGES, PROMPTS).values.tolist() == [2.0, 2.0]
    with pytest.raises(InvalidInputError, match="'house_style' comes with the package"):
        register_reward("house_style")


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (torch.zeros(3), r"values of shape \[2\], one number per image, got \[3\]"),
        (torch.zeros(2, 1), r"got \[2, 1\]"),
        (torch.tensor(0.0), r"got \[\]"),
        ([0.0, 0.0], r"a tensor \[2\] or a RewardResult, got list"),
        (
            RewardResult.from_values(torch.zeros(2), {"part": torch.zeros(1)}),
            r"part of shape \[2\], one number per image, got \[1\]",
        ),
    ],
)
def test_what_a_reward_returns_is_checked(output: object, got: str) -> None:
    register_reward("odd")(lambda device: lambda images, prompts: output)
    with pytest.raises(InvalidInputError, match=f"reward 'odd' must return .*{got}"):
        score(make_reward("odd"), IMAGES, PROMPTS)


def test_a_factory_must_return_something_to_call() -> None:
    register_reward("nothing")(lambda device: None)
    with pytest.raises(InvalidInputError, match="'nothing' must be a function of images"):
        make_reward("nothing")
