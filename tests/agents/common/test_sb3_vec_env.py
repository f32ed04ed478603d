from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small_agents import STEPS, make_env
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from agents.common.sb3_vec_env import SB3VecEnv
from diffusion_gym.errors import DiffusionGymError


@pytest.fixture(params=["numpy", "torch"])
def env(request: pytest.FixtureRequest) -> SB3VecEnv:
    return SB3VecEnv(
        gym.make_vec(
            "DiffusionT2I-v0",
            num_envs=3,
            array_type=request.param,
            num_inference_steps=STEPS,
            reward="jpeg_compressibility",
        )
    )


def test_an_episode_in_sb3s_words(env: SB3VecEnv) -> None:
    env.seed(4)
    observation = env.reset()
    expected, _ = make_env(3).reset(seed=4)
    np.testing.assert_array_equal(observation["latent"], expected["latent"].numpy())
    assert all("prompt_id" in info for info in env.reset_infos)
    for step in range(STEPS):
        actions = np.full((3, 16, 8, 8), 0.1 * (step + 1), np.float32)
        observation, rewards, dones, infos = env.step(actions)
        assert dones.tolist() == [step == STEPS - 1] * 3
        assert isinstance(observation["latent"], np.ndarray)
    assert (rewards < 0).all()
    for info in infos:
        np.testing.assert_array_equal(info["terminal_observation"]["latent"], actions[0])
        assert info["image"].shape == (64, 64, 3)
        assert info["TimeLimit.truncated"] is False
        assert info["reward_valid"]
    assert (observation["latent"] != actions).any()


def test_stock_ppo_learns_on_it(env: SB3VecEnv) -> None:
    model = PPO("MultiInputPolicy", env, n_steps=STEPS, batch_size=STEPS, n_epochs=1, seed=0)
    model.learn(3 * STEPS)
    assert model.num_timesteps == 3 * STEPS


def test_stock_monitors_and_callbacks_see_its_episodes(env: SB3VecEnv) -> None:
    monitored = VecMonitor(env)
    stop = StopTrainingOnMaxEpisodes(max_episodes=2)
    model = PPO("MultiInputPolicy", monitored, n_steps=STEPS, batch_size=STEPS, n_epochs=1)
    model.learn(10 * 3 * STEPS, callback=stop)
    assert stop.n_episodes == 2 * 3
    assert model.num_timesteps == 2 * 3 * STEPS
    assert [info["l"] for info in model.ep_info_buffer] == [STEPS] * 3  # of whole rollouts
    assert all(info["r"] < 0 for info in model.ep_info_buffer)
    mean, _ = evaluate_policy(model, monitored, n_eval_episodes=3)
    assert mean < 0


def test_rows_are_one_environment(env: SB3VecEnv) -> None:
    assert env.get_attr("num_envs") == [3, 3, 3]
    env.reset()
    first, second = env.env_method("get_state", indices=[0, 2])
    assert first is second
    assert first.latents.shape[0] == env.num_envs
    assert env.env_is_wrapped(gym.vector.VectorWrapper) == [False] * 3
    with pytest.raises(DiffusionGymError, match="single rows"):
        env.set_attr("anything", 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gym.make_vec("CartPole-v1", num_envs=2), "expected a DiffusionT2IVectorEnv"),
        (lambda: make_env(2, autoreset_mode="Disabled"), "autoreset_mode='SameStep'"),
    ],
)
def test_other_environments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(DiffusionGymError, match=message):
        SB3VecEnv(make())
