"""The reference policy against diffusers' own pipeline."""

import itertools

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


def rollout(envs, policy, steps=T, **reset):
    observation, _ = envs.reset(**reset)
    for _ in range(steps):
        observation, *_ = envs.step(policy(observation)[0])
    return envs.unwrapped.latents.clone()


def test_a_seeded_reset_repeats_its_noise_too():
    env = gymnasium.make("DiffusionT2I-v0", num_inference_steps=T)
    policy = reference_policy(env)
    first, other, *unseeded, again = (
        rollout(env, policy, seed=seed) for seed in (5, 6, None, None, 5)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, rollout(env, reference_policy(env), seed=5))
    for one, two in itertools.combinations([first, other, *unseeded], 2):
        assert (one - two).abs().max() > 0.1
    # Nor do the policy's draws change what the environment draws next.
    env.reset(seed=5)
    expected = env.reset()[0]["latent"]
    rollout(env, policy, seed=5)
    np.testing.assert_array_equal(env.reset()[0]["latent"], expected)


def test_a_row_is_drawn_as_by_the_single_environment():
    options = {"num_inference_steps": T, "prompts": ["a cat"]}
    envs = gymnasium.make_vec("DiffusionT2I-v0", num_envs=3, **options)
    env = gymnasium.make("DiffusionT2I-v0", **options)
    rows = rollout(envs, reference_policy(envs), steps=T - 1, seed=7)
    policy = reference_policy(env)
    for row in range(3):
        torch.testing.assert_close(
            rollout(env, policy, steps=T - 1, seed=7 + row)[0], rows[row], atol=1e-4, rtol=0
        )


def test_branches_of_a_state_part():
    envs = gymnasium.make_vec("DiffusionT2I-v0", num_envs=3, num_inference_steps=T)
    policy = reference_policy(envs)
    rollout(envs, policy, steps=2, seed=0)
    state = envs.unwrapped.get_state()
    for indices in ([0, 0, 0], [0, 1, 2]):
        ends = []
        for _ in range(2):
            observation, _ = envs.unwrapped.set_state(state.select(indices))
            ends.append(envs.step(policy(observation)[0])[0]["latent"])
        drawn = np.concatenate(ends)
        assert min(np.abs(one - two).max() for one, two in itertools.combinations(drawn, 2)) > 0.01
    # The whole state, with its generators: the same episode goes on with other noise.
    observation, _ = envs.unwrapped.set_state(state)
    assert np.abs(envs.step(policy(observation)[0])[0]["latent"] - ends[1]).max() > 0.01


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
