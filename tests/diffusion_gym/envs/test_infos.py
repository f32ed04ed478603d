"""What `finished_episodes` finds in the infos, whoever wrote it."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics

from diffusion_gym import finished_episodes

T = 3
TASK = {"num_inference_steps": T, "reward": "jpeg_compressibility", "prompts": ["a cat", "a dog"]}


def make(**options):
    return gymnasium.make("DiffusionT2I-v0", **TASK, **options)


def make_vec(count=3, **options):
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=count, **TASK, **options)


def run(env, *, steps=T, seed=0):
    """Rewards and infos of the last of some steps."""
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        observation, rewards, _, _, infos = env.step(observation["latent"] * np.float32(0.9))
    return rewards, infos


class Notes(gymnasium.Wrapper):
    """Somebody's own wrapper: writes what this project has never heard of."""

    def step(self, action):
        *result, info = self.env.step(action)
        if result[2]:
            info |= {"aesthetics": 0.25, "embedding": np.arange(4.0), "sizes": {"file": 7}}
        return *result, info


class VectorNotes(VectorWrapper):
    def step(self, actions):
        *result, infos = self.env.step(actions)
        ended = result[2]
        if ended.any():
            final = infos.get("final_info", infos)
            final["luck"] = np.arange(len(ended)) * 1.5
            final["_luck"] = np.asarray(ended) & (np.arange(len(ended)) != 1)
            final["never"], final["_never"] = np.ones(len(ended)), np.zeros(len(ended), bool)
            final["how many"] = 3  # of no single episode
        return *result, infos


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_returns_are_the_rewards_of_the_last_step(array_type, mode):
    rewards, infos = run(make_vec(array_type=array_type, autoreset_mode=mode))
    returns = finished_episodes(infos).returns
    assert type(returns) is (np.ndarray if array_type == "numpy" else torch.Tensor)
    assert returns.dtype in (np.float32, torch.float32)
    np.testing.assert_array_equal(returns, np.asarray(rewards, np.float32))
    assert (np.asarray(returns) < 0).all()
    assert infos.get("final_info", infos)["_return"].all()


def test_the_return_of_a_single_environment_is_a_number():
    reward, info = run(make())
    assert np.isscalar(info["return"])
    assert info["return"] == np.float32(reward)
    assert finished_episodes(info).returns.tolist() == [info["return"]]


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_no_episode_no_return(array_type):
    _, infos = run(make_vec(array_type=array_type), steps=1)
    episodes = finished_episodes(infos)
    assert len(episodes.returns) == len(episodes) == 0
    assert episodes.returns.dtype in (np.float32, torch.float32)
    assert episodes.has("anything").tolist() == []


def test_only_the_rows_that_ended_are_told_of():
    env = make_vec(autoreset_mode="Disabled")
    observation = env.step(env.reset(seed=0)[0]["latent"])[0]
    observation, _ = env.reset(options={"reset_mask": np.array([True, False, False])})
    for _ in range(T - 1):
        observation, rewards, _, _, infos = env.step(observation["latent"])
    episodes = finished_episodes(infos)
    assert episodes.rows.tolist() == [1, 2]
    np.testing.assert_array_equal(episodes.returns, rewards[1:].astype(np.float32))


def test_keys_of_strangers_are_kept():
    episodes = finished_episodes(run(Notes(make()))[1])
    assert episodes.extras["aesthetics"].tolist() == [0.25]
    assert episodes.extras["embedding"].tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert episodes.extras["sizes"]["file"].tolist() == [7]
    assert episodes.has("sizes").tolist() == [True]
    assert episodes.has("taste").tolist() == [False]


def test_nothing_is_extra_without_wrappers():
    for infos in (run(make())[1], run(make_vec())[1], run(make_vec(autoreset_mode="Disabled"))[1]):
        episodes = finished_episodes(infos)
        assert len(episodes) > 0
        assert episodes.extras == episodes.extras_mask == {}


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_masks_of_a_key_are_honoured(array_type, mode):
    env = VectorNotes(make_vec(array_type=array_type, autoreset_mode=mode))
    episodes = finished_episodes(run(env)[1])
    assert list(episodes.extras) == ["luck"]
    assert episodes.extras["luck"].tolist() == [0.0, 1.5, 3.0]
    assert episodes.has("luck").tolist() == [True, False, True]
    assert episodes.has("never").tolist() == [False] * 3


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_gymnasiums_vector_statistics(mode):
    rewards, infos = run(RecordVectorStatistics(make_vec(autoreset_mode=mode)))
    statistics = finished_episodes(infos).extras["episode"]
    assert set(statistics) == {"r", "l", "t"}
    np.testing.assert_allclose(statistics["r"], rewards)
    assert statistics["l"].tolist() == [T] * 3


def test_gymnasiums_statistics_of_a_single_environment():
    reward, info = run(RecordEpisodeStatistics(make()))
    statistics = finished_episodes(info).extras["episode"]
    assert statistics["r"].tolist() == [reward]
    assert statistics["l"].tolist() == [T]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_single_environments_in_a_sync_vector_env(mode):
    """Of two rows, the second alone is wrapped."""
    wrap = [make, lambda: RecordEpisodeStatistics(Notes(make()))]
    rewards, infos = run(SyncVectorEnv(wrap, autoreset_mode=mode))
    episodes = finished_episodes(infos)
    np.testing.assert_array_equal(episodes.returns, rewards.astype(np.float32))
    for key in ("aesthetics", "embedding", "sizes", "episode"):
        assert episodes.has(key).tolist() == [False, True]
    assert episodes.extras["aesthetics"].tolist() == [0.0, 0.25]
    assert set(episodes.extras["episode"]) == {"r", "l", "t"}
    assert episodes.extras["episode"]["r"][1] == rewards[1]


def test_where_the_episodes_stand_is_cheap_to_know():
    for env, rows in ((make(), 1), (make_vec(array_type="torch"), 3)):
        observation, _ = env.reset(seed=0)
        base = env.unwrapped
        assert base.step_index.tolist() == [0] * rows
        before = base.latents
        kept = before.clone()
        observation, *_ = env.step(observation["latent"] * np.float32(0.9))
        assert base.step_index.tolist() == [1] * rows
        base.step_index[:] = 7  # a copy
        assert base.step_index.tolist() == [1] * rows
        told = base.latents.reshape(observation["latent"].shape)
        np.testing.assert_array_equal(told, observation["latent"])
        assert torch.equal(before, kept)  # replaced, not changed
        assert torch.equal(base.latents, base.get_state().latents)
