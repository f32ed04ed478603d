"""Gymnasium's own wrappers and vectorisers around the environments."""

import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, RecordVideo
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from packaging.version import Version

from diffusion_gym import finished_episodes, reference_policy

T = 3


def make(**kwargs):
    return gymnasium.make("diffusion_gym:DiffusionT2I-v0", num_inference_steps=T, **kwargs)


def make_vec(num_envs=3, **kwargs):
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=num_envs, num_inference_steps=T, **kwargs)


def test_record_episode_statistics():
    env = RecordEpisodeStatistics(make())
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        observation, reward, _, _, info = env.step(observation["latent"])
    assert info["episode"]["l"] == T
    assert info["episode"]["r"] == pytest.approx(reward, abs=1e-5)


COUNTS_SAME_STEP = pytest.mark.skipif(
    Version(gymnasium.__version__) < Version("1.4"),
    reason="gymnasium's wrapper skips the first step after a same-step reset before 1.4",
)


@pytest.mark.parametrize("mode", [pytest.param("SameStep", marks=COUNTS_SAME_STEP), "Disabled"])
def test_record_episode_statistics_of_vector_envs(mode):
    envs = RecordVectorStatistics(make_vec(autoreset_mode=mode))
    for episode in range(2):
        if mode == "Disabled":
            observation, _ = envs.reset(options={"reset_mask": np.ones(3, bool)})
        elif episode == 0:
            observation, _ = envs.reset(seed=0)
        for _ in range(T):
            observation, rewards, terminations, _, infos = envs.step(observation["latent"] * 0.9)
        assert terminations.all()
        assert infos["episode"]["l"].tolist() == [T] * 3
        np.testing.assert_allclose(infos["episode"]["r"], rewards)
        assert len(finished_episodes(infos)) == 3
    assert len(envs.return_queue) == 6


def test_flatten_observation():
    env = FlattenObservation(make())
    observation, _ = env.reset(seed=0)
    plain = make().reset(seed=0)[0]
    assert observation in env.observation_space
    assert observation.shape == (sum(value.size for value in plain.values()),)
    np.testing.assert_array_equal(observation[: plain["latent"].size], plain["latent"].ravel())


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos")
def test_record_video(tmp_path):
    env = RecordVideo(make(render_mode="rgb_array"), str(tmp_path), episode_trigger=lambda _: True)
    policy = reference_policy(env)
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        observation, *_ = env.step(policy(observation)[0])
    env.close()
    (video,) = tmp_path.glob("*.mp4")
    assert video.stat().st_size > 1000


def test_render_collection():
    env = make(render_mode="rgb_array_list")
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        observation, *_, info = env.step(observation["latent"] * np.float32(0.9))
    frames = env.render()
    assert len(frames) == T + 1
    np.testing.assert_array_equal(frames[-1], info["image"])


def collect(envs):
    """One episode and the first step of the next, as arrays."""
    observation, _ = envs.reset(seed=0)
    collected = []
    for _ in range(T + 1):
        action = np.zeros(envs.action_space.shape, np.float32)
        if envs.metadata["autoreset_mode"] is not AutoresetMode.NEXT_STEP:
            action = observation["latent"] * np.float32(0.9)
        observation, rewards, terminations, _, infos = envs.step(action)
        episodes = finished_episodes(infos)
        collected += [observation["latent"], rewards, terminations, episodes.prompt_id]
        collected += [episodes.image, *episodes.reward_terms.values()]
    envs.close()
    return collected


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_sync_vector_env(mode):
    collected = collect(SyncVectorEnv([make, make], autoreset_mode=mode))
    if mode == "SameStep":
        for one, other in zip(collected, collect(make_vec(2)), strict=True):
            np.testing.assert_allclose(one, other, atol=1 if one.dtype == np.uint8 else 1e-5)
    ends = [array.shape[0] for array in collected if array.ndim == 4 and array.shape[-1] == 3]
    assert 2 in ends


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_async_vector_env(context, workers):
    # A forked worker would hang in OpenMP if the parent's threads were taken for its own.
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(400, 400) @ torch.randn(400, 400)
    try:
        makers = [functools.partial(make, device="cpu")] * workers
        envs = AsyncVectorEnv(makers, context=context, autoreset_mode="SameStep")
        collected = collect(envs)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(collected, collect(make_vec(workers)), strict=True):
        np.testing.assert_allclose(one, other, atol=1 if one.dtype == np.uint8 else 1e-5)
