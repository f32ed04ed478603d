"""Whole episodes of a small Stable Diffusion 3: the flow's sampler in the environment."""

import diffusers
import gymnasium
import numpy as np
import pytest
import torch

from diffusion_gym import finished_episodes, reference_policy
from diffusion_gym.envs.checker import check_vector_env
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.flow_sde import FlowSDESchedule
from diffusion_gym.wrappers import B2DiffuRLReward, CoCAReward, hindsight
from diffusion_gym.wrappers.coca import credit_shares, final_similarities

T = 4
PROMPTS = ["a cat", "a dog", "an apple", "grapes"]


@pytest.fixture
def task(sd3_folder):
    return {
        "model": str(sd3_folder),
        "prompts": PROMPTS,
        "reward": "jpeg_compressibility",
        "num_inference_steps": T,
    }


def make_vec(task, num_envs=4, **kwargs):
    return gymnasium.make_vec(
        "DiffusionT2I-v0", num_envs=num_envs, array_type="torch", **(task | kwargs)
    )


def play(env, seed=0):
    """One episode of the reference policy: its steps, and the finished episodes."""
    policy = reference_policy(env, generator=torch.Generator().manual_seed(seed))
    observation, _ = env.reset(seed=seed)
    steps, infos = [], {}
    for _ in range(T):
        action, step = policy(observation)
        steps.append((action, step))
        observation, _, _, _, infos = env.step(action)
    return steps, finished_episodes(infos)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_without_noise_an_episode_is_diffusers_pipeline(task, guidance):
    env = gymnasium.make("DiffusionT2I-v0", eta=0.0, **task)
    policy = reference_policy(env, guidance)
    observation, _ = env.reset(seed=0, options={"prompts": ["a zebra"]})
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(task["model"])
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        "a zebra",
        latents=torch.from_numpy(observation["latent"])[None],
        num_inference_steps=T,
        guidance_scale=guidance,
        output_type="np",
    ).images
    info = {}
    for _ in range(T):
        action, _ = policy(observation)
        observation, _, _, _, info = env.step(action)
    assert np.abs(images[0] * 255 - info["image"]).max() < 1.5


def test_the_environment_takes_the_flows_sampler_by_itself(task):
    env = make_vec(task)
    schedule = env.unwrapped.schedule
    assert type(schedule) is FlowSDESchedule
    assert schedule.eta == 0.7
    space = env.unwrapped.single_observation_space["timestep"]
    assert space.high.item() == 1000.0
    observation, _ = env.reset(seed=0)
    for timestep in schedule.timesteps:
        assert torch.equal(observation["timestep"], timestep.expand(4, 1))
        observation = env.step(observation["latent"])[0]
    check_vector_env(env)


@pytest.mark.parametrize(
    ("model", "sampler", "message"),
    [
        ("emoji-64", "flow_sde", "expected sampler='ddim', which fits a DDIMScheduler"),
        (None, "ddim", "expected sampler='flow_sde', which fits a FlowMatchEuler"),
        (None, "euler", "unknown sampler 'euler'; known: ddim, flow_cps, flow_sde"),
    ],
)
def test_a_sampler_that_does_not_fit(task, model, sampler, message):
    with pytest.raises(InvalidInputError, match=message):
        make_vec(task | ({"model": model} if model else {}), sampler=sampler)


def test_coca_on_top(task):
    env = CoCAReward(make_vec(task, sampler="flow_sde"), windows=2)
    steps, episodes = play(env)
    final = steps[-1][0]
    similarities = final_similarities((step.predicted_clean for _, step in steps), final)
    expected = credit_shares(similarities, T // 2)
    credit = hindsight(episodes, T).credit
    torch.testing.assert_close(credit, expected.float())
    torch.testing.assert_close(credit.sum(1), torch.ones(4))


def test_coca_around_b2_on_top(task):
    """A prefix of two steps, which the two branches of a prompt share."""
    env = CoCAReward(B2DiffuRLReward(make_vec(task), branches=2, schedule=(2, 1000)), windows=2)
    policy = reference_policy(env, generator=torch.Generator().manual_seed(0))
    observation, infos = env.reset(seed=0)
    for step in range(T):
        latents = observation["latent"]
        assert torch.equal(latents[0], latents[1]) == (step <= 2)
        assert infos["active"].tolist() == ([True, step >= 2] * 2)
        observation, _, _, _, infos = env.step(policy(observation)[0])
    outcome = hindsight(finished_episodes(infos), T)
    assert outcome.advantage.isfinite().all()
    assert not outcome.step_mask[:, :2].any()
    trained = outcome.step_mask.any(1)
    assert trained.any()
    torch.testing.assert_close(outcome.credit[trained].sum(1), torch.ones(int(trained.sum())))


SAMPLERS = [
    {"sampler": "flow_cps"},
    {"sampler": "flow_cps", "stochastic_steps": [0, 2]},
    {"stochastic_steps": [1]},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_other_samplers_are_played_shaped_and_recorded(task, options):
    env = CoCAReward(make_vec(task, **options), windows=2)
    base = env.unwrapped
    expected = options.get("stochastic_steps", [0, 1, 2] if "sampler" in options else None)
    assert base.schedule.stochastic.nonzero()[:, 0].tolist() == expected
    assert base.config.stochastic_steps == (
        tuple(options["stochastic_steps"]) if "stochastic_steps" in options else None
    )
    steps, episodes = play(env)
    for action, step in steps:
        assert torch.equal(action, step.mean) != step.stochastic
    torch.testing.assert_close(hindsight(episodes, T).credit.sum(1), torch.ones(4))
    check_vector_env(make_vec(task, **options))
    single = gymnasium.make("DiffusionT2I-v0", **(task | options))
    assert gymnasium.make(single.spec).unwrapped.schedule.window == base.schedule.window


def test_branches_need_noise_in_their_own_steps(task):
    with pytest.raises(InvalidInputError, match=r"last 2 steps: expected .*stochastic_steps"):
        B2DiffuRLReward(make_vec(task, stochastic_steps=[0, 1]), branches=2, schedule=(2, 5))
    B2DiffuRLReward(make_vec(task, stochastic_steps=[1, 2]), branches=2, schedule=(2, 5))
    with pytest.raises(InvalidInputError, match=r"last 1 steps: .*got noise in steps \[0, 1, 2\]"):
        B2DiffuRLReward(make_vec(task, sampler="flow_cps"), branches=2, schedule=(1, 5))
