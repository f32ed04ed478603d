"""Noise-aware step weights: the formula by hand, and what agents are told."""

import numpy as np
import pytest
import torch
from small_episodes import T, episode, make, make_vec

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    NoiseAwareReward,
    SingleNoiseAwareReward,
    VectorNoiseAwareReward,
    credit_to_go,
    hindsight,
)
from diffusion_gym.wrappers.noise_aware import noise_aware_weights

G = torch.tensor([0.5, 0.25, 1.0, torch.inf])
ALL = torch.ones(1, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(0, [1, 1, 1, 0]), (1, [0.5, 1, 0.25, 0]), (2, [0.25, 1, 1 / 16, 0])],
)
def test_weights_by_hand(exponent, expected):
    weights = noise_aware_weights(G, ALL, exponent)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([expected], dtype=torch.float32))


def test_the_greatest_weight_of_the_trained_steps_is_1():
    mask = torch.tensor([[True, False, True, True], [False, False, True, True], [False] * 4])
    expected = torch.tensor([[1, 0, 0.25, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(noise_aware_weights(G, mask, 2), expected)


def test_small_weights_are_left_out():
    assert noise_aware_weights(G, ALL, 2, min_weight=0.1).tolist() == [[0.25, 1, 0, 0]]
    assert noise_aware_weights(G, ALL, 2, min_weight=0.25).tolist() == [[0.25, 1, 0, 0]]
    assert noise_aware_weights(G, ALL, 2, min_weight=1.0).tolist() == [[0, 1, 0, 0]]


def test_no_scale_is_too_large():
    weights = noise_aware_weights(torch.tensor([1e-12, 1e12]), ALL[:, :2], 8)
    assert weights.tolist() == [[1, 0]]


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 2.0])
def test_agents_are_told_the_weights(exponent, mode, array_type):
    env = NoiseAwareReward(make_vec(autoreset_mode=mode, array_type=array_type), exponent=exponent)
    assert isinstance(env, VectorNoiseAwareReward)
    _, _, episodes = episode(env)
    known = hindsight(episodes, T)
    scale = env.unwrapped.schedule.gradient_scale.numpy().astype(np.float64)
    expected = (scale / scale.min()) ** -exponent
    weights = np.asarray(known.step_weight)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (4, T)), rtol=1e-5)
    np.testing.assert_allclose(env.step_weights.numpy(), expected, rtol=1e-5)
    # The other channel: credit sums to 1, and its sums from a step on are the weights.
    credit = torch.as_tensor(known.credit)
    np.testing.assert_allclose(credit.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(credit_to_go(credit), weights / weights[:, :1], atol=1e-5)


def test_a_single_environment():
    env = NoiseAwareReward(make(), mask_last=True)
    assert isinstance(env, SingleNoiseAwareReward)
    env.reset(seed=0)
    for _ in range(T):
        *_, info = env.step(env.action_space.sample())
    assert info["step_weight"].tolist() == env.step_weights.tolist()
    assert info["step_mask"].tolist() == [True] * (T - 1) + [False]


def test_masks():
    env = NoiseAwareReward(make_vec(), exponent=0, mask_last=True)
    _, _, episodes = episode(env)
    assert hindsight(episodes, T).step_mask.tolist() == [[True] * (T - 1) + [False]] * 4
    env = NoiseAwareReward(make_vec(), min_weight=0.5)
    _, _, episodes = episode(env)
    mask = hindsight(episodes, T).step_mask
    assert torch.equal(mask, (env.step_weights >= 0.5).expand(4, T))
    assert 0 < mask.sum() < 4 * T


def test_inside_branches_the_weights_are_those_of_the_suffix():
    inner = B2DiffuRLReward(make_vec(), branches=2, schedule=(2, 1000), all_branches=True)
    env = NoiseAwareReward(inner, exponent=2)
    _, _, episodes = episode(env)
    known = hindsight(episodes, T)
    assert known.step_mask.any()
    scale = env.unwrapped.schedule.gradient_scale
    expected = torch.zeros(T)
    expected[T - 2 :] = (scale[T - 2 :] / scale[T - 2 :].min()) ** -2
    trained = known.step_mask.any(1)
    torch.testing.assert_close(
        known.step_weight[trained] * known.step_mask[trained],
        expected.expand(int(trained.sum()), T),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exponent": -1}, "exponent"),
        ({"exponent": float("nan")}, "exponent"),
        ({"exponent": "2"}, "exponent"),
        ({"mask_last": 1}, "mask_last"),
        ({"min_weight": 1.5}, "min_weight"),
        ({"min_weight": -0.1}, "min_weight"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        NoiseAwareReward(make_vec(), **settings)


def test_an_episode_without_a_step_to_train_is_refused():
    with pytest.raises(InvalidInputError, match="expected a step to train on"):
        NoiseAwareReward(make_vec(num_inference_steps=1), mask_last=True)
    with pytest.raises(InvalidInputError, match="expected a step to train on"):
        NoiseAwareReward(make_vec(eta=0.0))
