"""`DiffusionPPO` on shaped environments."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import TransformReward
from small_agents import STEPS, make_agent, make_env, weights
from stable_baselines3.common.logger import KVWriter, Logger

from agents.common.checkpoint import save_checkpoint
from agents.ppo import DiffusionPPO
from agents.runs import builders
from agents.runs.methods import shape_rewards
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import DiffusionGymError, InvalidInputError
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CoCAReward,
    CreditReward,
    NoiseAwareReward,
    UniformCreditReward,
    VectorNoiseAwareReward,
    VectorShaping,
    VectorUniformCreditReward,
    credit_to_go,
)

LAST_STEP = (1, 1000)


def b2(num_envs: int = 4, **kwargs: Any) -> B2DiffuRLReward:
    return B2DiffuRLReward(make_env(num_envs), **({"branches": 2, "schedule": LAST_STEP} | kwargs))


def coca(env: Any) -> CoCAReward:
    return CoCAReward(env, windows=STEPS)


def test_steps_are_trained_on_the_credit_to_come() -> None:
    agent = make_agent(coca(make_env()))
    agent.learn(4)
    data = agent.rollout_buffer.trajectories
    batch = agent.rollout_buffer.minibatch(torch.arange(4 * STEPS))
    expected = data.advantages[:, None] * credit_to_go(data.credit)
    assert torch.equal(batch.advantages.view(4, STEPS), expected)
    torch.testing.assert_close(data.credit.sum(1), torch.ones(4))
    assert not torch.allclose(data.credit, data.credit.mean(1, keepdim=True), atol=1e-3)


def test_a_shared_prefix_is_evaluated_once_per_group() -> None:
    agent = make_agent(b2(6, branches=3, all_branches=True), samples_per_prompt=3, batch_size=4)
    agent.learn(6)
    rollout = 2 * (STEPS - 1) + 6  # two leaders, then every branch
    assert agent.policy.denoiser_evaluations == rollout + 6  # one trained step of each
    data = agent.rollout_buffer.trajectories
    assert data.step_mask.tolist() == [[False, False, True]] * 6
    prefix = data.latents.view(2, 3, STEPS + 1, -1)[:, :, :STEPS]
    assert torch.equal(prefix, prefix[:, :1].expand_as(prefix))
    assert not torch.equal(data.latents[0, -1], data.latents[1, -1])
    assert agent.reward_queries == 6


def test_agents_that_ignore_the_marks_get_branches_at_the_full_cost() -> None:
    marked, unmarked = make_agent(b2()), make_agent(Unmarked(b2()))
    marked.learn(4)
    unmarked.learn(4)
    assert marked.policy.denoiser_evaluations == 2 * (STEPS - 1) + 4 + 4
    assert unmarked.policy.denoiser_evaluations == 4 * STEPS + 4
    data = unmarked.rollout_buffer.trajectories
    assert torch.equal(data.latents[0, :STEPS], data.latents[1, :STEPS])


class Unmarked(VectorUniformCreditReward):
    """Hides the marks."""

    def reset(self, **kwargs: Any) -> Any:
        observation, infos = super().reset(**kwargs)
        del infos["active"]
        return observation, infos

    def step(self, action: Any) -> Any:
        *result, infos = super().step(action)
        del infos["active"]
        return (*result, infos)


def test_ratios_start_at_one_on_branches() -> None:
    agent = make_agent(coca(b2(schedule=(2, 1000))))
    agent.learn(4)
    assert agent.log_probs_recomputed == 0


def test_rounds_without_survivors_are_counted_and_survived() -> None:
    env = b2(positive=9.0, negative=-9.0)
    agent = make_agent(env)
    before = weights(agent)
    agent.learn(8)
    assert torch.equal(weights(agent), before)
    assert (agent.rounds, agent.rounds_without_pairs, agent._n_updates) == (2, 2, 0)
    assert env.stage == 2
    assert agent.policy.denoiser_evaluations == 2 * (2 * (STEPS - 1) + 4)
    env.positive, env.negative = 0.5, -0.5
    agent.learn(4, reset_num_timesteps=False)
    assert not torch.equal(weights(agent), before)
    assert agent.rounds_without_pairs == 2


def test_groups_must_share_their_prompt() -> None:
    with pytest.raises(DiffusionGymError, match=r"multiple of .* branches \(4\), .* got 2"):
        make_agent(coca(b2(branches=4)), samples_per_prompt=2)


@pytest.mark.parametrize("baseline", ["history", "branch"])
def test_a_resumed_run_equals_the_uninterrupted_one(baseline: str, tmp_path: Path) -> None:
    def shaped() -> CoCAReward:
        env = make_env(prompts=["a cat", "a dog"])
        return coca(B2DiffuRLReward(env, branches=2, schedule=(1, 2), baseline=baseline))

    whole_env, resumed_env = shaped(), shaped()
    whole = make_agent(whole_env).learn(12)
    first = make_agent(shaped()).learn(4)
    folder = save_checkpoint(first, tmp_path / "round-000001")
    resumed = DiffusionPPO.resume(folder, resumed_env)
    assert resumed_env.env.stage == 1
    resumed.learn(8, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed_env.env.state_dict() == whole_env.env.state_dict()
    assert resumed.policy.denoiser_evaluations == whole.policy.denoiser_evaluations


@pytest.mark.parametrize("mode", ["unit_variance", "scale", "center"])
def test_step_advantages_are_standardised(mode: str, tmp_path: Path) -> None:
    agent = make_agent(UniformCreditReward(make_env()), standardise_steps=mode)
    agent.learn(4)
    found = agent.rollout_buffer.minibatch(torch.arange(4 * STEPS)).advantages
    assert found.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    agent.save(tmp_path / "agent.zip")
    loaded = DiffusionPPO.load(tmp_path / "agent.zip", env=make_env())
    assert loaded.step_standardisation is not None
    assert loaded.step_standardisation.mode == mode


def test_unknown_standardisations_are_refused() -> None:
    with pytest.raises(DiffusionGymError, match="unknown standardise_steps 'yes'"):
        make_agent(standardise_steps="yes")


def test_standardised_masked_steps() -> None:
    agent = make_agent(b2(all_branches=True), standardise_steps="unit_variance")
    agent.learn(4)
    advantages = agent.rollout_buffer.step_advantages
    assert (advantages[:, :-1] == 0).all()
    np.testing.assert_allclose(advantages[:, -1].std(correction=0), 1, atol=1e-4)


class Columns(KVWriter):
    """Keeps what is logged in every round."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        self.rounds.append(dict(key_values))

    def close(self) -> None:
        pass


def logged(env: Any) -> list[dict[str, Any]]:
    agent, columns = make_agent(env), Columns()
    agent.set_logger(Logger(None, [columns]))
    agent.learn(8)
    return columns.rounds


def test_what_a_wrapper_measures_is_logged_in_every_round() -> None:
    guarded = logged(CoCAReward(make_env(), windows=STEPS, guard=10.0))
    assert [row["shaping/credit_guarded"] for row in guarded] == [1.0] * 2  # no sum reaches 10
    assert [row["shaping/credit_negative"] for row in guarded] == [0.0] * 2
    negative = logged(CoCAReward(make_env(), windows=STEPS, similarity="latent", guard=1e-6))
    assert all(0 <= row["shaping/credit_negative"] < 1 for row in negative)
    assert {frozenset(row) for row in [*guarded, *negative]} == {frozenset(guarded[0])}
    plain = logged(make_env())
    assert not any(name.startswith("shaping/") for row in plain for name in row)
    assert {frozenset(row) for row in plain} == {frozenset(plain[0])}


class OwnWeights(CreditReward, VectorShaping):
    """Trains the first step alone, and measures something of the first row."""

    def assign_credit(self, episodes: Any, step_mask: Any, infos: Any) -> dict[str, torch.Tensor]:
        weights = torch.zeros(step_mask.shape)
        weights[:, 0] = 2.0
        return {"step_weight": weights, "mood": torch.full((len(weights),), 0.5)}


def test_weights_of_a_users_own_are_trained_on_and_what_it_measures_is_logged() -> None:
    agent, columns = make_agent(OwnWeights(make_env())), Columns()
    agent.set_logger(Logger(None, [columns]))
    agent.learn(4)
    data = agent.rollout_buffer.trajectories
    found = agent.rollout_buffer.step_advantages
    assert torch.equal(found[:, 0], 2 * data.advantages)
    assert data.step_mask.tolist() == [[True] + [False] * (STEPS - 1)] * 4
    assert columns.rounds[0]["shaping/mood"] == 0.5


def test_rewards_that_a_wrapper_changes_are_trained_on() -> None:
    agent = make_agent(TransformReward(make_env(), lambda rewards: -2 * rewards))
    agent.learn(4)
    data = agent.rollout_buffer.trajectories
    plain = make_agent(make_env())
    plain.learn(4)
    assert torch.equal(data.returns, -2 * plain.rollout_buffer.trajectories.returns)


def shaped(shaping: str, steps: int = STEPS, **options: Any) -> Any:
    settings = TrainSettings.of(
        shaping=shaping, num_envs=5, num_inference_steps=steps, samples_per_prompt=5, **options
    )
    return shape_rewards(builders.make_env(settings), settings.shaping, settings.length)


def test_step_weights_by_name() -> None:
    schedule = shaped("sparse").unwrapped.schedule
    relative = schedule.gradient_scale / schedule.gradient_scale.min()
    torch.testing.assert_close(shaped("noise-aware").step_weights, relative**-1.5)
    torch.testing.assert_close(shaped("equal-scale").step_weights, relative**-1)
    half = shaped("noise-aware", noise_exponent=0.5, mask_last=True).step_weights
    torch.testing.assert_close(half[:-1], relative[:-1] ** -0.5)
    assert half[-1] == 0
    assert shaped("mask-last").step_weights.tolist() == [1.0] * (STEPS - 1) + [0.0]
    assert shaped("noise-aware", min_weight=1.0).step_weights.count_nonzero() == 1
    inside = shaped("b2+noise-aware", b2_start=2, noise_exponent=1.0)
    assert isinstance(inside, VectorNoiseAwareReward)
    assert isinstance(inside.env, B2DiffuRLReward)
    assert (inside.exponent, inside.env.start) == (1.0, 2)


@pytest.mark.parametrize(
    ("shaping", "option", "value"),
    [
        ("sparse", "noise_exponent", 2.0),
        ("equal-scale", "noise_exponent", 1.0),
        ("mask-last", "mask_last", True),
        ("coca", "min_weight", 0.1),
        ("noise-aware", "b2_start", 2),
    ],
)
def test_an_option_of_another_shaping_is_refused(shaping: str, option: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{option} belongs to the shaping"):
        shaped(shaping, **{option: value})


def test_masked_steps_are_not_trained() -> None:
    agent = make_agent(NoiseAwareReward(make_env(), min_weight=0.2), batch_size=4)
    agent.learn(4)
    trained = int((agent.env.vector_env.step_weights > 0).sum())
    assert 0 < trained < STEPS
    assert agent.policy.denoiser_evaluations == 4 * STEPS + 4 * trained
