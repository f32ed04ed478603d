"""Environments on small Stable Diffusion models: options, spaces, specs, freed text encoders."""

import json

import gymnasium
import numpy as np
import pytest
import torch

import diffusion_gym
from diffusion_gym.envs.checker import check_vector_env
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import load_model

PROMPTS = ["a cat", "a dog", "two dogs"]
T = 3


def make_vec(folder, num_envs=2, **kwargs):
    defaults = {"prompts": PROMPTS, "num_inference_steps": T, "array_type": "torch"}
    return gymnasium.make_vec(
        "DiffusionT2I-v0", num_envs=num_envs, model=str(folder), **(defaults | kwargs)
    )


def play(env, guidance=1.0, options=None):
    """Observations and finished episodes of one episode of the reference policy."""
    policy = diffusion_gym.reference_policy(
        env, guidance, generator=torch.Generator().manual_seed(0)
    )
    observation, _ = env.reset(seed=0, options=options)
    observations, infos = [observation], {}
    for _ in range(T):
        observation, _, _, _, infos = env.step(policy(observation)[0])
        observations.append(observation)
    return observations, diffusion_gym.finished_episodes(infos)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_the_environment_keeps_its_promises(request, kind):
    envs = make_vec(request.getfixturevalue(f"{kind}_folder"))
    check_vector_env(envs)
    observation, _ = envs.reset(seed=0)
    assert ("pooled_prompt_embedding" in observation) == (kind == "sdxl")
    assert envs.unwrapped.config.sampler == envs.unwrapped.schedule.sampler
    assert type(envs.unwrapped.schedule).sampler == "ddim"
    envs.close()


def test_a_name_is_all_there_is_to_say(sd1_folder):
    env = gymnasium.make("DiffusionT2I-v0", model=str(sd1_folder))
    base = env.unwrapped
    assert base.schedule.num_steps == 50
    assert base.schedule.eta == 1.0
    assert base.prompts.name == "animals:train"
    assert base.reward_function.name == "jpeg_compressibility"
    observation, info = env.reset(seed=0)
    assert base.prompt_text(info["prompt_id"]) in base.prompts.texts
    assert observation["latent"].shape == (4, 8, 8)


def test_options_go_through_the_spec_and_back(sdxl_folder):
    options = {"vae_slicing": True, "resolution": 64}
    env = gymnasium.make(
        "DiffusionT2I-v0",
        model=str(sdxl_folder),
        prompts=PROMPTS,
        num_inference_steps=T,
        model_options=options,
    )
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert json.loads(env.spec.to_json())["kwargs"]["model_options"] == options
    for made in (env, again):
        model = made.unwrapped.model
        assert model.image_shape == (3, 64, 64)
        assert model.decoder.vae.use_slicing
    (first, episodes), (second, others) = play(env), play(again)
    for key, value in first[-1].items():
        np.testing.assert_array_equal(value, second[-1][key])
    assert episodes.image.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(episodes.image, others.image)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model_options": {"slices": 2}}, r"unknown model option 'slices'; known: clip_skip, "),
        ({"model_options": {"t5": False}}, "for models with a T5 text encoder"),
        ({"sampler": "flow_sde"}, "expected sampler='ddim', which fits a PNDMScheduler"),
        ({"reward_options": {"clip_score": {}}}, "clip_score"),
    ],
)
def test_options_that_do_not_fit(sd1_folder, kwargs, message):
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(InvalidInputError, match=message):
            make("DiffusionT2I-v0", model=str(sd1_folder), **kwargs)


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_freed_text_encoders_change_nothing_but_memory(request, kind):
    folder = request.getfixturevalue(f"{kind}_folder")
    expected, episodes = play(make_vec(folder), guidance=3.0)
    envs = make_vec(folder, model_options={"free_text_encoders": True})
    observations, others = play(envs, guidance=3.0)
    for one, other in zip(expected, observations, strict=True):
        for key, value in one.items():
            assert torch.equal(value, other[key]), key
    assert torch.equal(episodes.image, others.image)
    with pytest.raises(InvalidInputError, match="were freed"):
        _ = envs.unwrapped.model.text_encoders
    with pytest.raises(InvalidInputError, match=r"own prompts.*free_text_encoders.*got 'a zebra'"):
        envs.reset(options={"prompts": ["a cat", "a zebra"]})
    play(envs, options={"prompts": ["a dog", "a dog"]})


def test_other_prompts_are_fine_as_long_as_there_are_text_encoders(sdxl_folder):
    observations, _ = play(make_vec(sdxl_folder), options={"prompts": ["a zebra", "a cat"]})
    expected = load_model(sdxl_folder).encode(["a zebra"])
    assert torch.equal(observations[0]["prompt_embedding"][:1], expected.tokens)
    assert torch.equal(observations[0]["pooled_prompt_embedding"][:1], expected.pooled)


@pytest.mark.parametrize("rows", [[0, 1], [1]])
def test_a_decoder_that_gives_nan_is_told_with_what_helps(sd1_folder, rows):
    """As one does that overflows in half precision: here on an action as large as that takes."""
    options = {"vae_dtype": "float16"}
    envs = make_vec(sd1_folder, model_options=options, num_inference_steps=1)
    observation, _ = envs.reset(seed=0)
    action = observation["latent"].clone()
    action[rows] = 1e30
    told = f"{len(rows)} of 2 images hold NaN.*vae_dtype"
    if len(rows) == 2:  # nothing can be scored at all
        with pytest.raises(InvalidInputError, match=told):
            envs.step(action)
        return
    with pytest.warns(RuntimeWarning, match=told):
        infos = envs.step(action)[-1]
    assert infos["final_info"]["reward_valid"].tolist() == [True, False]
