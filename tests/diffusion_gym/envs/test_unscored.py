"""Episodes that end before their rewards are computed: the same infos, once they are."""

import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import diffusion_gym
from diffusion_gym.envs.infos import finished_episodes
from diffusion_gym.rewards.base import RewardResult

STEPS, ROWS = 2, 3


def make_env(**options: Any) -> Any:
    """An environment whose reward has terms, and none for the middle image."""

    @diffusion_gym.register_reward("brightness")
    def make(device: str) -> Any:
        def brightness(images: torch.Tensor, prompts: Any) -> RewardResult:
            values = images.mean((1, 2, 3))
            valid = torch.tensor([prompt != "a dog" for prompt in prompts])
            return RewardResult(values, valid, {"red": images[:, 0].mean((1, 2))})

        return brightness

    prompts = ["a cat", "a dog", "a cow"]
    fixed = {"num_envs": ROWS, "num_inference_steps": STEPS, "prompts": prompts}
    return gym.make_vec("DiffusionT2I-v0", reward="brightness", **fixed, **options)


def actions(seed: int) -> torch.Tensor:
    return torch.randn(ROWS, 16, 8, 8, generator=torch.Generator().manual_seed(seed))


def played(env: Any, seed: int = 0) -> tuple[Any, ...]:
    """The last step of an episode in every row."""
    env.reset(seed=seed, options={"prompts": ["a cat", "a dog", "a cow"]})
    for step in range(STEPS - 1):
        env.step(actions(step))
    return env.step(actions(STEPS))


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, np.ndarray) and one.dtype == object:
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    elif one is not None:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_infos_are_the_same_once_it_has_scores(array_type: str, mode: str) -> None:
    env = make_env(array_type=array_type, autoreset_mode=mode)
    observation, rewards, ended, cut, infos = played(env)
    with env.unwrapped.scoring_later() as unscored:
        later = played(env)
    assert_same(later[0], observation)
    assert_same(later[2], ended)
    assert_same(later[3], cut)
    episodes = finished_episodes(later[4])
    assert np.isnan(np.asarray(later[1])).all()
    assert np.isnan(np.asarray(episodes.returns)).all()
    assert np.asarray(episodes.reward_valid).all()
    assert not episodes.reward_terms

    (images,) = unscored
    result, failures = images.score_and_tell()
    images.write(later[4], result)
    assert not failures
    assert_same(later[4], infos)
    np.testing.assert_array_equal(result.values, np.asarray(rewards, dtype=np.float32))
    assert env.unwrapped.images_scored == 2 * ROWS
    np.testing.assert_array_equal(played(env)[1], rewards)  # outside, all is as ever


def test_rows_that_end_at_different_steps_are_scored_apart() -> None:
    env = make_env(autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(actions(0))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    with env.unwrapped.scoring_later() as unscored:
        _, rewards, *_ = env.step(actions(1))
        assert np.isnan(rewards).tolist() == [True, False, True]
        env.reset(options={"reset_mask": np.array([True, False, True])})
        env.step(actions(2))
    assert [one.rows.tolist() for one in unscored] == [[0, 2], [1]]
    assert [len(one.score_and_tell()[0].values) for one in unscored] == [2, 1]


def test_an_error_in_the_block_ends_it() -> None:
    env = make_env()
    with pytest.raises(ZeroDivisionError), env.unwrapped.scoring_later():
        raise ZeroDivisionError
    assert np.isfinite(played(env)[1]).all()


def test_another_thread_computes_as_this_one_would() -> None:
    seen: list[Any] = []

    @diffusion_gym.register_reward("brightness")
    def make(device: str) -> Any:
        def brightness(images: torch.Tensor, prompts: Any) -> torch.Tensor:
            own = (torch.is_grad_enabled(), torch.get_num_threads(), np.geterr()["over"])
            seen.append((threading.current_thread(), own))
            return images.mean((1, 2, 3))

        return brightness

    env = gym.make_vec("DiffusionT2I-v0", 1, num_inference_steps=1, reward="brightness")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with torch.no_grad(), np.errstate(over="raise"), env.unwrapped.scoring_later() as unscored:
            env.reset(seed=0)
            env.step(np.zeros((1, 16, 8, 8), np.float32))
    finally:
        torch.set_num_threads(threads)
    thread = threading.Thread(target=unscored[0].score_and_tell)
    thread.start()
    thread.join()
    assert seen == [(thread, (False, threads + 1, "raise"))]
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
