"""Rewards by name, and a user's own."""

import gc
import weakref
from functools import partial

import numpy as np
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
from diffusion_gym.rewards.base import check_prompts
from diffusion_gym.rewards.builtin import load_verifier

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
    others = ("aesthetic", "hpsv2", "imagereward", "pickscore", "remote")
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
    with pytest.raises(InvalidInputError, match="'remote/judge' comes with the package"):
        register_reward("remote/judge")


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (torch.zeros(3), r"values of shape \[2\], one number per image, got \[3\]"),
        (torch.zeros(2, 1), r"got \[2, 1\]"),
        (torch.tensor(0.0), r"got \[\]"),
        ({"a": 0.0}, r"a tensor \[2\] or a RewardResult, got dict"),
        (0.0, "got float"),
        (None, "got NoneType"),
        ([0.0, 0.0, 0.0], r"values of shape \[2\], one number per image, got \[3\]"),
        ([0.0], r"got \[1\]"),
        ([0.0, None], "one number per image, got list"),
        ([0.0, [1.0]], "one number per image, got list"),
        (["0", "1"], "one number per image, got list"),
        (np.zeros((2, 1)), r"got \[2, 1\]"),
        (np.zeros(2, complex), "one number per image, got ndarray"),
        (torch.zeros(2, dtype=torch.complex64), r"got torch.complex64 of shape \[2\]"),
        (RewardResult([0.0], [True]), r"values of shape \[2\].*got \[1\]"),
        (RewardResult([0.0, 1.0], None), "valid of shape"),
        (RewardResult([0.0, 1.0], [True, True], [1]), "terms as a mapping .* got list"),
        *(
            (RewardResult([0.0, 1.0], [True, True], {term: [0.0, 1.0]}), "")
            for term in (3, "", None, "_part", ("a",))
        ),
        (RewardResult([0.0, 1.0], [True, True], {"part": "ab"}), "part of shape"),
        (
            RewardResult.from_values(torch.zeros(2), {"part": torch.zeros(1)}),
            r"part of shape \[2\], one number per image, got \[1\]",
        ),
    ],
)
def test_what_a_reward_returns_is_checked(output: object, got: str) -> None:
    register_reward("odd")(lambda device: lambda images, prompts: output)
    wanted = f"must return .*{got}" if got else "must have texts as names"
    with pytest.raises(InvalidInputError, match=f"reward 'odd' {wanted}"):
        score(make_reward("odd"), IMAGES, PROMPTS)


@pytest.mark.parametrize(
    "output",
    [
        [0.5, 1],
        (0.5, 1.0),
        [np.float32(0.5), torch.tensor(1.0)],
        np.array([0.5, 1.0]),
        np.array([0.5, 1.0], ">f8"),
        np.array([1.0, 0.5])[::-1],
        torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True),
        torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
        RewardResult(np.array([0.5, 1.0]), [True, True], {"part": [0.5, 1.0]}),
        RewardResult.from_values([0.5, 1.0]),
    ],
)
def test_numbers_may_come_in_any_form(output: object) -> None:
    result = score(make_reward(lambda images, prompts: output), IMAGES, PROMPTS)
    assert result.values.tolist() == [0.5, 1.0]
    assert result.values.dtype == torch.float32
    assert not result.values.requires_grad
    assert result.valid.tolist() == [True, True]
    assert all(term.tolist() == [0.5, 1.0] for term in result.terms.values())


def test_whole_numbers_and_truths_are_numbers() -> None:
    for output in ([0, 1], np.array([0, 1]), torch.tensor([False, True]), [False, True]):
        result = score(make_reward(lambda images, prompts, o=output: o), IMAGES, PROMPTS)
        assert result.values.tolist() == [0.0, 1.0]


class Brightness:
    def __call__(self, images, prompts, scale=1.0):
        return scale * images.mean(dim=(1, 2, 3))

    def bright(self, images, prompts):
        return self(images, prompts)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Brightness(), "Brightness"),
        (Brightness().bright, "bright"),
        (partial(Brightness().bright), "bright"),
        (partial(partial(Brightness(), scale=1.0)), "Brightness"),
        (lambda images, prompts: images.mean(dim=(1, 2, 3)), "<lambda>"),
    ],
)
def test_whatever_can_be_called_is_a_reward(function, name: str) -> None:
    reward = make_reward(function)
    assert reward.name == name
    assert score(reward, IMAGES, PROMPTS).values.tolist() == [0.25, 0.75]


def test_a_class_is_no_reward() -> None:
    class Named(Brightness):
        name = "named"
        version = "1"

    for kind in (Brightness, Named):
        with pytest.raises(InvalidInputError, match=rf"expected {kind.__name__}\(…\)"):
            make_reward(kind)


@pytest.mark.parametrize(("name", "version"), [(None, "1"), ("x", 1), ("", "1"), (b"x", "1")])
def test_name_and_version_are_texts(name: object, version: object) -> None:
    reward = Brightness()
    reward.name, reward.version = name, version
    with pytest.raises(InvalidInputError, match=r"must have a text as its (name|version), got"):
        make_reward(reward)


@pytest.mark.parametrize("name", ["", 3, None, "_hidden"])
def test_rewards_are_registered_under_texts(name: object) -> None:
    with pytest.raises(InvalidInputError, match="rewards must have texts as names"):
        register_reward(name)


def test_a_reward_may_refuse_prompts_beforehand() -> None:
    class Reader(Brightness):
        def check_prompts(self, prompts):
            for prompt in prompts:
                if "dragon" in prompt:
                    raise InvalidInputError(f"no dragons, got {prompt!r}")

    for reward in (make_reward(Reader()), make_reward("scene_alignment")):
        check_prompts(reward, PROMPTS)
        with pytest.raises(InvalidInputError, match="a dragon"):
            check_prompts(reward, [*PROMPTS, "a dragon"])
    check_prompts(make_reward("jpeg_compressibility"), ["a dragon"])


def test_a_factory_must_return_something_to_call() -> None:
    register_reward("nothing")(lambda device: None)
    with pytest.raises(InvalidInputError, match="'nothing' must be a function of images"):
        make_reward("nothing")


def test_the_verifier_is_shared_while_somebody_holds_it_and_then_freed() -> None:
    one, other = make_reward("house_style"), make_reward("scene_alignment")
    assert one._verifier is other._verifier is load_verifier("cpu")
    # A version of its own, since other tests may hold that of the whole session.
    verifier = weakref.ref(load_verifier("cpu:0"))
    gc.collect()
    assert verifier() is None
