from typing import Any

import gymnasium as gym
import pytest
import torch
from small_agents import STEPS, make_agent, make_env, weights
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from agents.common.arguments import MEANINGLESS
from agents.ppo import DiffusionPPO, RewardFailureError
from agents.ppo.update import gaussian_kl
from diffusion_gym.errors import DiffusionGymError
from diffusion_gym.rewards import register_reward


class Figures(BaseCallback):
    """Keeps the figures that the rollout logs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.images: list[int] = []

    def _on_step(self) -> bool:
        self.calls += 1
        return True

    def _on_rollout_end(self) -> None:
        self.images.append(self.model.num_timesteps)


def test_learning_counts_images_and_changes_weights() -> None:
    agent = make_agent(batches_per_round=2, n_epochs=2)
    before, figures = weights(agent), Figures()
    agent.learn(16, callback=figures)
    assert not torch.equal(weights(agent), before)
    assert figures.images == [8, 16]
    assert figures.calls == 2 * 2  # one per batch
    assert agent.rounds == 2
    assert agent._n_updates == 2 * 2 * 2
    assert agent.reward_queries == agent.env.base_env.images_scored == 16
    assert agent.policy.denoiser_evaluations == 16 * STEPS + 2 * 16 * STEPS


def test_training_depends_on_the_seed_alone() -> None:
    first, second, other = (make_agent(seed=seed).learn(4) for seed in (0, 0, 1))
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_accumulated_passes_give_the_gradient_of_one() -> None:
    whole, pieces = make_agent(batch_size=12), make_agent(batch_size=4)
    whole.learn(4)
    pieces.learn(4)
    # Adam's first steps have the size of the learning rate whatever the gradient: compare in it.
    assert (weights(whole) - weights(pieces)).abs().mean() < 0.02 * 2e-4


@pytest.mark.slow
def test_kl_penalty_holds_the_policy_near_the_base_model() -> None:
    def divergence(kl_coef: float) -> float:
        agent = make_agent(kl_coef=kl_coef, n_epochs=10)
        agent.learn(4)
        batch = agent.rollout_buffer.minibatch(torch.arange(4 * STEPS))
        embedding = agent.env.base_env.prompt_embedding(batch.prompt_ids)
        steps = agent.policy.transition, agent.policy.base_transition
        new, base = (step(batch.latents, batch.steps, embedding) for step in steps)
        return float(gaussian_kl(new, base).mean())

    assert divergence(10.0) < 0.5 * divergence(0.0)


def test_round_of_prompts_comes_in_groups() -> None:
    agent = make_agent(make_env(6), samples_per_prompt=3)
    agent.learn(6)
    ids = agent.rollout_buffer.trajectories.prompt_ids.view(2, 3)
    assert (ids == ids[:, :1]).all()
    assert ids[0, 0] != ids[1, 0]


def test_drifted_log_probs_are_measured_anew_and_reported(
    agent_with_drift: DiffusionPPO,
) -> None:
    agent = agent_with_drift
    agent.learn(4)
    assert agent.log_probs_recomputed == 1
    # Sampling, one pass that finds the drift, all pairs anew, and the update.
    assert agent.policy.denoiser_evaluations == 12 + 6 + 12 + 12


@pytest.fixture
def agent_with_drift(monkeypatch: pytest.MonkeyPatch) -> DiffusionPPO:
    """Its rollout stores log-probabilities as a rollout in bfloat16 would."""
    agent = make_agent()
    collect = agent.collect_rollouts

    def collect_and_round(*arguments: Any, **options: Any) -> bool:
        done = collect(*arguments, **options)
        data = agent.rollout_buffer.trajectories
        data.log_probs = data.log_probs.bfloat16().float()
        return done

    monkeypatch.setattr(agent, "collect_rollouts", collect_and_round)
    return agent


def test_training_one_policy_changes_nothing_for_the_next() -> None:
    def images() -> torch.Tensor:
        env = make_env()
        policy = make_agent(env).policy
        observation, _ = env.reset(seed=5)
        policy.generator.manual_seed(5)
        return policy.act(observation).actions

    before = images()
    make_agent(learning_rate=1e-2).learn(4)
    make_agent(policy_kwargs={"lora_rank": 2}, learning_rate=1e-2).learn(4)
    assert torch.equal(images(), before)


def test_predict_and_evaluate_policy_work() -> None:
    agent = make_agent()
    observation = agent.env.reset()
    actions, _ = agent.predict(observation)
    assert actions.shape == observation["latent"].shape
    single = {key: value[0] for key, value in observation.items()}
    assert agent.predict(single, deterministic=True)[0].shape == observation["latent"].shape[1:]
    mean, _ = evaluate_policy(agent, agent.env, n_eval_episodes=4, warn=False)
    assert -3 < mean < -0.5  # kB of a small JPEG, negated


def breaks_often(device: str) -> Any:
    def score(images: torch.Tensor, prompts: Any) -> torch.Tensor:
        values = images.mean((1, 2, 3))
        values[images[:, 0, 0, 0] > images[:, 0, 0, 0].median()] = torch.nan
        return values

    return score


@pytest.fixture(autouse=True)
def broken_rewards() -> None:
    for factory in (breaks_often, breaks_once, constant):
        register_reward(factory.__name__)(factory)


def test_a_round_with_too_many_failed_rewards_ends_the_run() -> None:
    agent = make_agent(make_env(reward="breaks_often"))
    with pytest.raises(
        RewardFailureError, match=r"\d of this round's 4 images; .* at most 0, one in 10"
    ):
        agent.learn(4)


def test_another_device_than_the_environments_is_refused() -> None:
    for device, message in (("cpu:1", "device, cpu, .*got device='cpu:1'"), ("meta", "no numbers")):
        with pytest.raises(DiffusionGymError, match=message):
            make_agent(device=device)
    assert make_agent(device="cpu").policy.model.device.type == "cpu"


def test_the_count_that_statistics_need_is_that_of_standardised_steps() -> None:
    agent = make_agent(standardise_steps="center", statistics_min_count=3)
    assert agent.step_standardisation is not None
    assert agent.step_standardisation.min_count == 3


def test_one_failed_reward_in_ten_is_survived() -> None:
    agent = make_agent(make_env(10, reward="breaks_once")).learn(10)
    assert agent.rollout_buffer.trajectories.valid.sum() == 9
    with pytest.raises(RewardFailureError, match="1 of this round's 8 images"):
        make_agent(make_env(8, reward="breaks_once")).learn(8)


def test_a_round_without_any_advantage_is_told() -> None:
    agent = make_agent(make_env(reward="constant"))
    before = weights(agent)
    with pytest.warns(RuntimeWarning, match="no image of this round was better or worse"):
        agent.learn(4)
    torch.testing.assert_close(weights(agent), before, atol=1e-4, rtol=1e-3)  # weight decay


def constant(device: str) -> Any:
    return lambda images, prompts: torch.ones(len(images))


def test_failed_images_take_no_part() -> None:
    agent = make_agent(make_env(12, reward="breaks_once"))
    agent.learn(12)
    data = agent.rollout_buffer.trajectories
    assert data.valid.sum() == 11
    assert not data.step_mask[~data.valid].any()
    assert data.advantages[~data.valid].tolist() == [0.0]
    assert agent.policy.denoiser_evaluations == 12 * STEPS + 11 * STEPS


def breaks_once(device: str) -> Any:
    def score(images: torch.Tensor, prompts: Any) -> torch.Tensor:
        values = images.mean((1, 2, 3))
        values[5 if len(values) > 1 else 0] = torch.nan
        return values

    return score


@pytest.mark.parametrize("argument", sorted(MEANINGLESS))
def test_arguments_of_ppo_that_mean_nothing_are_refused(argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        make_agent(**{argument: 1})


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rat'; known: adv"):
        make_agent(learning_rat=1)
    with pytest.raises(DiffusionGymError, match=r"divide num_envs \(4\), got 3"):
        make_agent(samples_per_prompt=3)
    with pytest.raises(DiffusionGymError, match=r"unknown advantage 'gae'; known: group, prompt"):
        make_agent(advantage="gae")
    with pytest.raises(DiffusionGymError, match="eta"):
        make_agent(make_env(eta=0.0))
    with pytest.raises(DiffusionGymError, match="make_vec"):
        make_agent(gym.make("DiffusionT2I-v0"))
    numpy_env = gym.make_vec("DiffusionT2I-v0", num_envs=2, num_inference_steps=STEPS)
    with pytest.raises(DiffusionGymError, match="array_type='torch'"):
        make_agent(numpy_env)
