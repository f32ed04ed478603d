"""The reference policy against diffusers' own pipeline."""

import diffusers
import gymnasium
import numpy as np
import pytest
import torch

from diffusion_gym import reference_policy

T = 4


def run(env, policy, observation):
    for _ in range(T):
        action, _ = policy(observation)
        observation, reward, terminated, _, info = env.step(action)
    return observation, reward, terminated, info


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_it_is_diffusers_pipeline(guidance):
    env = gymnasium.make("DiffusionT2I-v0", num_inference_steps=T, eta=0.0)
    policy = reference_policy(env, guidance)
    observation, _ = env.reset(seed=0, options={"prompts": ["a zebra"]})
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        env.unwrapped.model.folder, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        "a zebra",
        latents=torch.from_numpy(observation["latent"])[None],
        num_inference_steps=T,
        guidance_scale=guidance,
        eta=0.0,
        output_type="np",
    ).images
    info = run(env, policy, observation)[-1]
    assert np.abs(images[0] * 255 - info["image"]).max() < 1.5


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_it_serves_vector_envs(array_type):
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0", num_envs=2, num_inference_steps=T, array_type=array_type
    )
    policy = reference_policy(envs, generator=torch.Generator().manual_seed(0))
    observation, _ = envs.reset(seed=0)
    action, step = policy(observation)
    assert type(action) is type(observation["latent"])
    assert action.shape == step.mean.shape == (2, 16, 8, 8)
    assert torch.equal(envs.unwrapped.reported, step.predicted_clean)
    _, rewards, terminated, _ = run(envs, policy, observation)
    assert terminated.all()
    assert (rewards > 0).all()


def test_its_noise_comes_from_the_generator():
    env = gymnasium.make("DiffusionT2I-v0", num_inference_steps=T)
    observation, _ = env.reset(seed=0)
    draws = [
        reference_policy(env, generator=torch.Generator().manual_seed(seed))(observation)[0]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.01
    assert draws[0].shape == env.action_space.shape


def test_it_reports_what_it_heads_for():
    env = gymnasium.make("DiffusionT2I-v0", num_inference_steps=T, render_mode="rgb_array")
    policy = reference_policy(env)
    observation, _ = env.reset(seed=0)
    noise = env.render()
    _, step = policy(observation)
    predicted = env.render()
    assert not np.array_equal(predicted, noise)
    expected = env.unwrapped.model.decode(step.predicted_clean)[0].permute(1, 2, 0).numpy()
    assert np.abs(predicted / 255 - expected).max() < 0.01


def test_repr_names_the_guidance():
    env = gymnasium.make("DiffusionT2I-v0", num_inference_steps=T)
    assert repr(reference_policy(env, 3.0)).startswith(
        "ReferencePolicy(guidance=3.0, schedule=DDIM"
    )
