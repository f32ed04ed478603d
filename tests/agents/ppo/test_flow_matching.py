"""Training a small Stable Diffusion 3 on Flow-GRPO's transitions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_agents import STEPS, make_agent, make_env, weights

from agents.policy import UNetPolicy
from agents.ppo import DiffusionPPO
from diffusion_gym.schedules.flow_sde import FlowSDESchedule
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CoCAReward,
    NoiseAwareReward,
    SparseReward,
    UniformCreditReward,
)

PROMPTS = ["a cat", "a dog", "an apple", "grapes"]
KINDS = [
    {"guidance": 2.0},
    {"lora_rank": 2},
    {"autocast": "bfloat16", "lora_rank": 2, "guidance": 2.0},
]


@pytest.fixture
def folder(sd3_folder: Path) -> str:
    return str(sd3_folder)


def flow_env(folder: str, **kwargs: Any) -> Any:
    return make_env(4, model=folder, prompts=PROMPTS, **kwargs)


def disturb(policy: UNetPolicy) -> None:
    """Fresh LoRA adapters do nothing; a ratio of them would be 1 for free."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("sampler", ["flow_sde", "flow_cps"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ratio_is_exactly_one(kind: dict[str, Any], sampler: str, folder: str) -> None:
    env = flow_env(folder, sampler=sampler)
    policy = make_agent(env, policy_kwargs=kind).policy
    disturb(policy)
    observation, _ = env.reset(seed=0)
    for _ in range(int(policy.schedule.stochastic.sum())):  # the last of flow_cps has no density
        old = policy.act(observation)
        log_prob = policy.log_prob(old.actions, policy.transition(*policy.conditions(observation)))
        assert log_prob.requires_grad
        assert old.log_prob.isfinite().all()
        assert torch.equal((log_prob.detach() - old.log_prob).exp(), torch.ones(4))
        observation = env.step(old.actions)[0]


@pytest.mark.parametrize("kind", [{}, {"lora_rank": 2}], ids=str)
def test_a_round_of_training(kind: dict[str, Any], folder: str) -> None:
    agent = make_agent(flow_env(folder), policy_kwargs=kind, clip_range=1e-4)
    disturb(agent.policy)
    before = weights(agent)
    agent.learn(8)
    assert agent.log_probs_recomputed == 0  # the first ratios were within 1e-5 of 1
    assert not torch.equal(weights(agent), before)
    assert weights(agent).isfinite().all()


SAMPLERS = [
    {"sampler": "flow_cps"},
    {"sampler": "flow_cps", "stochastic_steps": [1]},
    {"stochastic_steps": [0, 2]},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_other_samplers_train_their_noisy_steps_from_a_ratio_of_one(
    options: dict[str, Any], folder: str
) -> None:
    agent = make_agent(flow_env(folder, **options), clip_range=1e-4)
    disturb(agent.policy)
    before = weights(agent)
    agent.learn(4)
    assert agent.log_probs_recomputed == 0
    assert not torch.equal(weights(agent), before)
    noisy = int(agent.policy.schedule.stochastic.sum())
    assert noisy == len(options.get("stochastic_steps", [0, 1]))
    assert agent.policy.denoiser_evaluations == 4 * STEPS + 4 * noisy


def branches(env: Any) -> B2DiffuRLReward:
    return B2DiffuRLReward(env, branches=2, schedule=(2, 1000), all_branches=True)


SHAPINGS: dict[str, Any] = {
    "sparse": SparseReward,
    "uniform": UniformCreditReward,
    "noise-aware": NoiseAwareReward,
    "coca": lambda env: CoCAReward(env, windows=STEPS),
    "b2": branches,
    "uniform(b2)": lambda env: UniformCreditReward(branches(env)),
    "noise-aware(b2)": lambda env: NoiseAwareReward(branches(env)),
    "coca(b2)": lambda env: CoCAReward(branches(env), windows=STEPS),
}


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("sampler", ["ddim", "flow_sde", "flow_cps"])
def test_a_window_is_trained_from_a_ratio_of_one(shaping: str, sampler: str, folder: str) -> None:
    """With every wrapper: what has no noise is drawn, and not trained on."""
    model = {} if sampler == "ddim" else {"model": folder, "prompts": PROMPTS}
    env = make_env(4, sampler=sampler, stochastic_steps=[0, 1], **model)
    agent = make_agent(SHAPINGS[shaping](env), clip_range=1e-4)
    disturb(agent.policy)
    before = weights(agent)
    agent.learn(4)
    assert agent.log_probs_recomputed == 0
    assert not torch.equal(weights(agent), before)
    trained = [1] if "b2" in shaping else [0, 1]  # B² leaves out the steps of the shared prefix
    assert sorted(set((agent._pairs() % STEPS).tolist())) == trained
    assert agent.rollout_buffer.step_advantages[:, trained].any()


def test_trains_with_coca_around_b2(folder: str) -> None:
    env = B2DiffuRLReward(flow_env(folder), branches=2, schedule=(2, 1000), all_branches=True)
    agent = make_agent(CoCAReward(env, windows=3))
    before = weights(agent)
    agent.learn(8)
    assert not torch.equal(weights(agent), before)


def test_an_agent_loaded_without_an_environment_has_its_flow(folder: str, tmp_path: Path) -> None:
    agent = make_agent(flow_env(folder, eta=0.5), policy_kwargs={"lora_rank": 2})
    disturb(agent.policy)
    agent.save(tmp_path / "agent.zip")
    loaded = DiffusionPPO.load(tmp_path / "agent.zip")
    schedule = loaded.policy.schedule
    assert isinstance(schedule, FlowSDESchedule)
    assert (schedule.num_steps, schedule.eta) == (STEPS, 0.5)
    observation, _ = flow_env(folder).reset(seed=0)
    ours, theirs = (a.policy.act(observation, deterministic=True) for a in (agent, loaded))
    assert torch.equal(ours.actions, theirs.actions)
