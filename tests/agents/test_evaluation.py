import numpy as np
import pytest
import torch
from scipy import stats
from small_agents import make_agent, make_env

from agents.evaluation import evaluate, paired_difference


def test_the_same_seed_draws_the_same_images_and_disturbs_nothing() -> None:
    agent, env = make_agent(), make_env(4)
    state, evaluations = agent.policy.generator.get_state(), agent.policy.denoiser_evaluations
    first, second, other = (
        evaluate(agent.policy, env, samples=2, prompts=3, seed=seed) for seed in (1, 1, 2)
    )
    assert first.images.shape == (3, 2, 64, 64, 3)
    assert first.rewards.shape == first.terms["size_kb"].shape == (3, 2)
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.images != other.images).any()
    assert (first.images[:, 0] != first.images[:, 1]).any()
    assert torch.equal(agent.policy.generator.get_state(), state)
    assert agent.policy.denoiser_evaluations == evaluations
    assert first.prompts == list(env.unwrapped.prompts.texts[:3])


def test_paired_difference_is_the_t_test_over_prompts() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 12, 4))
    result = paired_difference(before, after)
    test = stats.ttest_rel(after.mean(1), before.mean(1)).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((test.low, test.high))
    assert result.mean == pytest.approx((after - before).mean())
    assert str(result) == f"{result.mean:+.3f} [{result.low:+.3f}, {result.high:+.3f}]"


def test_paired_difference_leaves_out_failed_images() -> None:
    before, after = np.zeros((3, 2)), np.ones((3, 2))
    after[0, 0] = np.nan
    assert paired_difference(before, after).mean == 1.0


def test_one_prompt_has_no_interval() -> None:
    result = paired_difference(np.zeros((1, 2)), np.ones((1, 2)))
    assert (result.mean, result.low, result.high) == (1.0, 1.0, 1.0)
