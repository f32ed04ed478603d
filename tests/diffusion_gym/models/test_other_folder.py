"""A diffusers folder of another kind goes the same way as the embedded model."""

import diffusers
import gymnasium
import pytest
import torch

import diffusion_gym
from diffusion_gym.models import load_model


@pytest.fixture(scope="module")
def model(other_folder):
    return load_model(str(other_folder))


@pytest.fixture(scope="module")
def pipeline(other_folder):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(other_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_its_shapes_and_defaults(model):
    assert model.latent_shape == (4, 8, 4)
    assert model.image_shape == (3, 32, 16)
    assert model.prompt_embedding_shape == (24, 32)
    assert model.default_reward == "jpeg_compressibility"
    assert model.default_num_inference_steps == 50
    assert model.default_prompts == "animals"


def test_its_values_are_those_of_diffusers(model, pipeline):
    prompts = ["a cat", "two dogs"]
    expected, _ = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(model.encode(prompts).tokens, expected, rtol=1e-5, atol=1e-5)
    latents = torch.randn(2, 4, 8, 4)
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / 0.5).sample
    images = model.decode(latents)
    assert images.std() > 0.01
    torch.testing.assert_close(images, (decoded / 2 + 0.5).clamp(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_episode_is_what_diffusers_draws(other_folder, pipeline, guidance):
    steps = 5
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0",
        num_envs=2,
        model=str(other_folder),
        prompts=["a cat", "two dogs", "grapes"],
        num_inference_steps=steps,
        eta=0.0,
        array_type="torch",
    )
    policy = diffusion_gym.reference_policy(envs, guidance)
    observation, _ = envs.reset(seed=0, options={"prompts": ["a cat", "two dogs"]})
    # PNDM's noise process, walked in DDIM's steps and, like PNDM's, without clipping.
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config, clip_sample=False
    )
    expected = pipeline(
        ["a cat", "two dogs"],
        height=32,
        width=16,
        latents=observation["latent"].clone(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=0.0,
        output_type="np",
    ).images
    for _ in range(steps):
        action, _ = policy(observation)
        observation, rewards, terminated, _, infos = envs.step(action)
    assert terminated.all()
    assert (rewards < 0).all()
    episodes = diffusion_gym.finished_episodes(infos)
    assert episodes.image.shape == (2, 32, 16, 3)
    assert (episodes.image.float() - torch.from_numpy(expected * 255)).abs().max() < 1.5
    assert expected.std() > 0.01
    envs.close()


def test_the_default_episode_has_noise_and_a_reward(other_folder):
    env = gymnasium.make("DiffusionT2I-v0", model=str(other_folder), num_inference_steps=3)
    policy = diffusion_gym.reference_policy(env)
    observation, _ = env.reset(seed=0)
    terminated, count = False, 0
    while not terminated:
        action, step = policy(observation)
        assert step.stochastic
        observation, reward, terminated, _, info = env.step(action)
        count += 1
    assert count == 3
    assert -5 < reward < 0  # the negative size in kB
    assert info["reward_valid"]
    assert info["image"].shape == (32, 16, 3)
