"""Stock Stable-Baselines3 on the environment."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env

import diffusion_gym  # noqa: F401  (registers the environment)

T = 3


def test_stock_ppo_learns_on_one_env():
    env = gymnasium.make("DiffusionT2I-v0", num_inference_steps=T)
    model = PPO("MultiInputPolicy", env, n_steps=2 * T, batch_size=T, n_epochs=1, device="cpu")
    before = model.policy.action_net.weight.detach().clone()
    model.learn(4 * T)
    assert model.num_timesteps == 4 * T
    assert not np.allclose(before, model.policy.action_net.weight.detach())
    assert [info["l"] for info in model.ep_info_buffer] == [T] * 4


def test_stock_ppo_learns_on_several_envs():
    envs = make_vec_env("DiffusionT2I-v0", n_envs=2, env_kwargs={"num_inference_steps": T})
    model = PPO("MultiInputPolicy", envs, n_steps=T, batch_size=T, n_epochs=1, device="cpu")
    model.learn(2 * T)
    action, _ = model.predict(envs.reset())
    assert action.shape == (2, *envs.action_space.shape)


@pytest.mark.filterwarnings("ignore::UserWarning")  # advice for images, and for small action spaces
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_the_checker_passes(render_mode):
    env = gymnasium.make("DiffusionT2I-v0", num_inference_steps=T, render_mode=render_mode)
    check_env(env)
    # With its render check, it closes the environment in the middle and goes on.
    with pytest.raises(ClosedEnvironmentError, match=r"make a new one .*skip_render_check is true"):
        check_env(env, skip_render_check=False)
