"""Agents on weighted sums of rewards, each normalised by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import zscore
from small_agents import make_agent, make_env, weights
from small_nft import make_nft

from agents.common.checkpoint import save_checkpoint
from agents.common.image_algorithm import ImageAlgorithm
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import B2DiffuRLReward, VectorNoiseAwareReward

REWARD = {"jpeg_compressibility": 1.0, "house_style": 2.0}
DECOUPLED: dict[str, Any] = {"multi_objective_aggregation": "normalize_then_sum"}


def env(num_envs: int = 4, **options: Any) -> Any:
    return make_env(num_envs, reward=REWARD, **options)


def ppo(**options: Any) -> ImageAlgorithm:
    return make_agent(env(), **DECOUPLED, **options)


def nft(**options: Any) -> ImageAlgorithm:
    return make_nft(env(eta=0.0), **DECOUPLED, **options)


MAKES = {"ppo": ppo, "nft": nft}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_advantages_are_those_of_the_formula(make: Callable[..., ImageAlgorithm]) -> None:
    agent = make(batches_per_round=2)
    agent.learn(8)
    data = agent.rollout_buffer.episodes
    terms = {name: data.reward_terms[name].double().numpy() for name in REWARD}
    total = sum(REWARD[name] * values for name, values in terms.items())
    np.testing.assert_allclose(total, data.returns.numpy(), rtol=1e-5)
    ids, expected = data.prompt_ids.numpy(), np.zeros(8)
    for prompt in set(ids.tolist()):
        rows = ids == prompt
        for name, weight in REWARD.items():
            expected[rows] += weight * zscore(terms[name][rows])
    np.testing.assert_allclose(data.advantages.numpy(), zscore(expected), atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_resumed_run_equals_the_uninterrupted_one(
    make: Callable[..., ImageAlgorithm], tmp_path: Path
) -> None:
    options = {"advantage": "prompt", "statistics_min_count": 2}
    whole, first = make(**options).learn(12), make(**options).learn(4)
    folder = save_checkpoint(first, tmp_path / "round-000001")
    again = env(eta=0.0) if make is nft else env()
    resumed = type(first).resume(folder, again).learn(8, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))  # type: ignore[arg-type]
    assert resumed.advantage_estimator.state_dict() == whole.advantage_estimator.state_dict()
    assert set(resumed.advantage_estimator.state_dict()) == set(REWARD)


def test_around_a_shaping_it_is_the_same_advantage() -> None:
    agent = make_agent(VectorNoiseAwareReward(env()), **DECOUPLED)
    agent.learn(4)
    data = agent.rollout_buffer.trajectories
    expected = data.advantages[:, None] * data.step_weight
    assert torch.equal(agent.rollout_buffer.step_advantages, expected)
    assert data.advantages.abs().max() > 0.5


def test_what_has_nothing_to_decouple_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"weighted sum: expected one.*got 'jpeg_compress"):
        make_agent(make_env(), **DECOUPLED)
    branches = B2DiffuRLReward(env(), branches=2, schedule=(1, 3))
    with pytest.raises(InvalidInputError, match="B2DiffuRLReward compares"):
        make_agent(branches, **DECOUPLED)
