"""Rewards that ask for what the prompt file says besides."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

import diffusion_gym
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import make_reward, score
from diffusion_gym.rewards.base import RewardResult, wants_metadata

IMAGES = torch.rand(4, 3, 8, 8)
PROMPTS = ["a cat", "a dog", "a cat", "a fish"]
METADATA: list[dict[str, Any]] = [{"n": 1}, {"n": 2}, {"n": 3}, {}]


def numbers(images: Tensor, prompts: Sequence[str], metadata: list[dict[str, Any]]) -> Tensor:
    assert len(images) == len(prompts) == len(metadata)
    return torch.tensor([float(about.get("n", -1)) for about in metadata])


class Numbers:
    name = "numbers"
    version = "1"

    def __call__(
        self, images: Tensor, prompts: Sequence[str], *, metadata: list[dict[str, Any]]
    ) -> RewardResult:
        return RewardResult.from_values(numbers(images, prompts, metadata))


@pytest.mark.parametrize("reward", [numbers, Numbers()])
def test_a_reward_that_asks_gets_them_in_line(reward: Any) -> None:
    made = make_reward(reward)
    assert wants_metadata(made)
    assert score(made, IMAGES, PROMPTS, METADATA).values.tolist() == [1, 2, 3, -1]
    assert score(made, IMAGES, PROMPTS).values.tolist() == [-1] * 4
    with pytest.raises(InvalidInputError, match="got 1 dictionaries and 4 prompts"):
        score(made, IMAGES, PROMPTS, METADATA[:1])


def test_a_reward_that_does_not_ask_gets_none() -> None:
    for reward in (lambda images, prompts: images.mean((1, 2, 3)), lambda *others: [0.0] * 4):
        made = make_reward(reward)
        assert not wants_metadata(made)
        assert score(made, IMAGES, PROMPTS, METADATA).valid.all()


def test_parts_of_a_sum_get_what_they_ask_for_and_cannot_spoil_it() -> None:
    @diffusion_gym.register_reward("spoils_metadata")
    def make_spoiler(device: str) -> Any:
        def reward(images: Tensor, prompts: Sequence[str], metadata: Any) -> Tensor:
            for about in metadata:
                about["n"] = 100
            return torch.zeros(len(images))

        return reward

    diffusion_gym.register_reward("reads_metadata")(lambda device: numbers)
    parts = {"spoils_metadata": 1.0, "reads_metadata": 2.0, "jpeg_compressibility": 0.0}
    made = make_reward(parts)
    assert wants_metadata(made)
    assert score(made, IMAGES, PROMPTS, METADATA).values.tolist() == [2, 4, 6, -2]
    assert METADATA[0] == {"n": 1}
    assert not wants_metadata(make_reward({"jpeg_compressibility": 1.0}))


def test_what_fails_is_scored_again_with_its_own() -> None:
    def picky(images: Tensor, prompts: Sequence[str], metadata: list[dict[str, Any]]) -> Tensor:
        if {} in metadata:
            raise ValueError("no n")
        return numbers(images, prompts, metadata)

    with pytest.warns(RuntimeWarning, match="no n"):
        result = score(make_reward(picky), IMAGES, PROMPTS, METADATA)
    assert result.valid.tolist() == [True, True, True, False]
    assert result.values.tolist() == [1, 2, 3, 0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines = [{"prompt": "a cat", "n": 5}, {"prompt": "a dog", "n": 7}, {"prompt": "a fish"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_environments_hand_them_on(file: Path) -> None:
    diffusion_gym.register_reward("numbers_of_prompts")(lambda device: numbers)
    options: Any = {
        "prompts": str(file),
        "reward": "numbers_of_prompts",
        "num_inference_steps": 1,
        "eta": 0.0,
    }
    envs = gym.make_vec("DiffusionT2I-v0", num_envs=4, array_type="torch", **options)
    texts = ["a dog", "a cat", "a fish", "a rocket"]  # the last one is not in the file
    observation, _ = envs.reset(seed=0, options={"prompts": texts})
    _, rewards, *_ = envs.step(observation["latent"])
    assert rewards.tolist() == [7, 5, -1, -1]

    env = gym.make("DiffusionT2I-v0", **options)
    observation, _ = env.reset(seed=0, options={"prompts": ["a dog"]})
    assert env.step(observation["latent"])[1] == 7


def test_what_no_reward_reads_is_named(file: Path) -> None:
    options: Any = {"prompts": str(file), "num_inference_steps": 2}
    with pytest.warns(UserWarning, match="only the prompts are used, not n: the reward 'jpeg_"):
        gym.make("DiffusionT2I-v0", reward="jpeg_compressibility", **options)
    diffusion_gym.register_reward("numbers_of_prompts")(lambda device: numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gym.make("DiffusionT2I-v0", reward="numbers_of_prompts", **options)
