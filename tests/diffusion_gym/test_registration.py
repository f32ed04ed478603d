"""Ids, specs, and making environments from them."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import diffusion_gym
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.registration import ENV_ID, register_envs

KWARGS = {
    "num_inference_steps": 2,
    "prompts": ["a cat", "a dog"],
    "reward": {"jpeg_compressibility": 0.5, "house_style": 1.0},
    "eta": 0.5,
}


def test_registering_twice_is_harmless():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    assert gymnasium.spec(ENV_ID).max_episode_steps is None


def test_no_time_limit_is_wrapped_around_it():
    env = gymnasium.make(ENV_ID)
    while env is not env.unwrapped:
        assert not isinstance(env, gymnasium.wrappers.TimeLimit)
        env = env.env
    assert isinstance(env, diffusion_gym.DiffusionT2IEnv)


@pytest.mark.slow
def test_make_imports_the_package_by_itself():
    code = (
        "import gymnasium; env = gymnasium.make('diffusion_gym:DiffusionT2I-v0'); "
        "print(env.reset(seed=0)[0]['latent'].shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "(16, 8, 8)\n"


def test_a_spec_makes_the_same_env_after_json():
    env = gymnasium.make(ENV_ID, **KWARGS)
    spec = EnvSpec.from_json(env.spec.to_json())
    again = gymnasium.make(spec)
    assert again.spec == env.spec
    assert again.unwrapped.prompts.texts == ("a cat", "a dog")
    assert again.unwrapped.schedule.num_steps == 2
    assert again.unwrapped.schedule.eta == 0.5
    np.testing.assert_array_equal(again.reset(seed=3)[0]["latent"], env.reset(seed=3)[0]["latent"])


def test_a_vector_spec_makes_the_same_envs_after_json():
    kwargs = KWARGS | {"array_type": "torch", "autoreset_mode": "Disabled"}
    envs = gymnasium.make_vec(ENV_ID, num_envs=3, **kwargs)
    assert isinstance(envs, diffusion_gym.DiffusionT2IVectorEnv)
    again = gymnasium.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.spec == envs.spec
    assert (again.num_envs, again.array_type) == (3, "torch")
    assert again.metadata == envs.metadata


def test_make_vec_can_also_vectorise_the_single_env():
    envs = gymnasium.make_vec(ENV_ID, num_envs=2, vectorization_mode="sync", **KWARGS)
    assert isinstance(envs, gymnasium.vector.SyncVectorEnv)
    native = gymnasium.make_vec(ENV_ID, num_envs=2, **KWARGS)
    expected = native.reset(seed=0)[0]
    for key, value in envs.reset(seed=0)[0].items():
        np.testing.assert_array_equal(value, expected[key])


def test_making_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium.make(ENV_ID).close()
        gymnasium.make_vec(ENV_ID, num_envs=2).close()


def test_errors_reach_the_caller_of_make():
    with pytest.raises(InvalidInputError, match="unknown reward 'beauty'; known: "):
        gymnasium.make(ENV_ID, reward="beauty")
