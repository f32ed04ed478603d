"""The single environment and both checkers' opinion of it."""

import warnings

import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker
import torch
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation

from diffusion_gym import finished_episodes
from diffusion_gym.errors import InvalidInputError

T = 3


def make(**kwargs):
    return gymnasium.make("DiffusionT2I-v0", **({"num_inference_steps": T} | kwargs))


def finish(env):
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        result = env.step(observation["latent"] * np.float32(0.9))
        observation = result[0]
    return result


def test_gymnasiums_checker_has_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(render_mode="rgb_array").unwrapped)


def advice_of_stable_baselines3(env):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stable_baselines3.common.env_checker.check_env(env)
    return [str(warning.message) for warning in caught]


ACTION_ADVICE = "We recommend you to use a symmetric and normalized Box action space"


def test_stable_baselines3s_checker_gives_the_advice_these_spaces_must_get():
    expected = [
        "It seems that your observation latent is an image but its `dtype` is (float32)",
        "It seems that your observation space latent is an image but the upper and lower bounds",
        "Treating image space as channels-last, while second dimension was smallest",
        "The minimal resolution for an image is 36x36",
        "Your observation prompt_embedding has an unconventional shape",
        ACTION_ADVICE,
    ]
    actual = advice_of_stable_baselines3(make())
    assert [a[: len(e)] for a, e in zip(actual, expected, strict=True)] == expected


def test_stable_baselines3s_checker_on_flat_observations():
    (advice,) = advice_of_stable_baselines3(FlattenObservation(make()))
    assert advice.startswith(ACTION_ADVICE)


def test_spaces_are_those_of_the_model():
    env = make()
    model = env.unwrapped.model
    shapes = {key: space.shape for key, space in env.observation_space.spaces.items()}
    assert shapes == {
        "latent": model.latent_shape,
        "timestep": (1,),
        "prompt_embedding": model.prompt_embedding_shape,
    }
    assert env.action_space.shape == model.latent_shape
    assert (env.action_space.low.min(), env.action_space.high.max()) == (-100, 100)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert observation["timestep"].tolist() == [999.0]
    assert list(info) == ["prompt_id"]


def test_an_episode_has_t_steps_and_terminates():
    env = make()
    observation, _ = env.reset(seed=0)
    seen = []
    for _ in range(T):
        seen.append(observation["timestep"][0])
        observation, reward, terminated, truncated, info = env.step(observation["latent"])
        assert truncated is False
        assert terminated is (len(seen) == T)
        assert isinstance(reward, float)
        assert terminated or reward == 0.0
    assert seen == env.unwrapped.schedule.timesteps.tolist()
    assert observation["timestep"].tolist() == [0.0]
    assert set(info) == {"prompt_id", "image", "return", "reward_valid", "reward_terms"}
    assert info["return"] == np.float32(reward)
    assert info["image"].shape == (64, 64, 3)
    assert info["image"].dtype == np.uint8
    assert info["reward_valid"] is True
    assert set(info["reward_terms"]) == {"style", "background", "object"}
    assert reward == pytest.approx(np.mean(list(info["reward_terms"].values())))
    assert env.unwrapped.images_scored == 1


def test_the_image_is_the_decoded_last_action():
    env = make()
    observation, _, _, _, info = finish(env)
    image = env.unwrapped.model.decode(torch.from_numpy(observation["latent"])[None])[0]
    levels = (image * 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(info["image"], levels)


def test_finished_episodes_of_a_single_env():
    env = make()
    _, info = env.reset(seed=0)
    assert len(finished_episodes(info)) == 0
    info = finish(env)[-1]
    episodes = finished_episodes(info)
    assert len(episodes) == 1
    assert episodes.rows.tolist() == [0]
    assert episodes.prompt_id.tolist() == [info["prompt_id"]]
    assert episodes.image.shape == (1, 64, 64, 3)
    assert episodes.reward_valid.tolist() == [True]
    assert {name: float(v[0]) for name, v in episodes.reward_terms.items()} == info["reward_terms"]


def test_options_of_a_single_env():
    env = make(reward="jpeg_compressibility")
    _, info = env.reset(options={"prompts": ["a purple hen"]})
    assert env.unwrapped.prompt_text(info["prompt_id"]) == "a purple hen"
    assert env.reset(options={"prompt_ids": [5]})[1]["prompt_id"] == 5
    with pytest.raises(InvalidInputError, match="expected a list of 1 prompts"):
        env.reset(options={"prompts": ["a", "b"]})


def test_render_and_report():
    env = make(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    noise = env.render()
    assert noise.shape == (64, 64, 3)
    env.unwrapped.report(np.zeros_like(observation["latent"]))
    assert env.unwrapped.reported.shape == (1, 16, 8, 8)
    assert not np.array_equal(env.render(), noise)
    info = finish(env)[-1]
    np.testing.assert_array_equal(env.render(), info["image"])


def test_render_without_a_render_mode_says_what_to_do():
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert env.render() is None


def test_bad_actions():
    env = make().unwrapped
    with pytest.raises(ResetNeeded, match=r"expected reset\(\) before step\(\)"):
        env.step(np.zeros(env.action_space.shape, np.float32))
    env.reset(seed=0)
    with pytest.raises(
        InvalidAction, match=r"the next latent, of shape \(16, 8, 8\), got \(3, 64, 64\)"
    ):
        env.step(np.zeros((3, 64, 64), np.float32))
    with pytest.raises(InvalidAction, match="NaN or infinity"):
        env.step(np.full(env.action_space.shape, np.nan, np.float32))
    env.step(np.full(env.action_space.shape, 101, np.float32))
    assert env.oversized_actions == 1
    observation = finish(env)[0]
    with pytest.raises(ResetNeeded, match="running episodes only"):
        env.step(observation["latent"])


def test_vector_keywords_point_to_make_vec():
    for name, value in {"num_envs": 2, "array_type": "torch", "autoreset_mode": "Disabled"}.items():
        with pytest.raises(InvalidInputError, match=rf"make_vec\('DiffusionT2I-v0', {name}=…\)"):
            make(**{name: value})


def test_unknown_keywords_list_the_known_ones():
    with pytest.raises(
        InvalidInputError, match="unexpected keyword argument 'steps'; known: device"
    ):
        make(steps=3)


def test_closing():
    env = make()
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.reset()
    with pytest.raises(InvalidInputError, match="closed"):
        env.unwrapped.model.encode(["a cat"])


def test_envs_share_no_denoiser_and_no_randomness():
    one, other = make(), make()
    first = one.reset(seed=0)[0]["latent"]
    other.reset(seed=1)
    np.testing.assert_array_equal(one.reset(seed=0)[0]["latent"], first)
    assert one.unwrapped.model.new_denoiser() is not one.unwrapped.model.new_denoiser()
