"""CoCA's credit: the formula by hand, its invariances, and the wrapper around it."""

import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction, ResetNeeded
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_episodes import T, actions_for, episode, make, make_vec, play

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import CoCAReward, UniformCreditReward
from diffusion_gym.wrappers.coca import (
    credit_shares,
    final_similarities,
    negative_share,
    total_gain,
    window_size,
    with_alpha,
)


def shares(similarities, window, **kwargs):
    return credit_shares(torch.tensor([similarities], dtype=torch.float64), window, **kwargs)[0]


# ------------------------------------------------------------------ worked out by hand


def test_windows_by_hand():
    # S_0 = .5, S_1 = .9; gains .3 and .4; a window's gain is shared by its two steps.
    by_hand = [0.3 / 1.4, 0.3 / 1.4, 0.4 / 1.4, 0.4 / 1.4]
    assert shares([0.2, 0.4, 0.6, 0.8, 1.0], 2).tolist() == pytest.approx(by_hand)


def test_single_steps_by_hand():
    # Gains .25, -.25, .5, .5 of a sum of 1; the second step leads away and loses credit.
    found = shares([0.0, 0.25, 0.0, 0.5, 1.0], 1)
    assert found.tolist() == pytest.approx([0.25, -0.25, 0.5, 0.5])
    assert negative_share(found[None]).tolist() == pytest.approx([0.25 / 1.5])


def test_one_window_is_uniform_credit():
    assert shares([0.1, 0.7, 0.2, 0.9, 1.0], 4).tolist() == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    ("similarities", "window"),
    [
        ([0.96, 0.97, 0.98, 0.99, 1.0], 1),  # Σ g = 0.04
        ([1.0, 1.0, 1.0, 1.0, 1.0], 2),  # nothing gained at all
        ([0.9, -0.5, -0.6, -0.7, 0.5], 2),  # Σ g < -0.05, whose shares would be reversed
    ],
)
def test_small_and_negative_sums_of_gains_fall_back_to_uniform(similarities, window):
    assert shares(similarities, window).tolist() == [0.25] * 4
    assert total_gain(torch.tensor([similarities]), window).item() < 0.05


def test_the_guard_can_be_moved():
    similarities = [0.96, 0.97, 0.99, 0.99, 1.0]
    assert shares(similarities, 1, guard=0.01).tolist() == pytest.approx([0.25, 0.5, 0.0, 0.25])


def test_alpha_mixes_in_the_whole_advantage():
    credit = torch.tensor([[0.5, 0.25, -0.25, 0.5]])
    to_go = credit.flip(1).cumsum(1).flip(1)
    mixed = with_alpha(credit, 0.2)
    torch.testing.assert_close(mixed.flip(1).cumsum(1).flip(1), 0.2 + 0.8 * to_go)
    assert with_alpha(credit, 1.0).tolist() == [[0, 0, 0, 1]]
    assert credit.tolist() == [[0.5, 0.25, -0.25, 0.5]]


# -------------------------------------------------------------------------- properties


@st.composite
def trajectories(draw):
    """Similarities [B, T+1] that end in 1, and a window that divides T."""
    window, windows = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    shape = (draw(st.integers(1, 4)), window * windows + 1)
    similarities = draw(arrays(np.float64, shape, elements=st.floats(-1, 1)))
    similarities[:, -1] = 1
    return torch.from_numpy(similarities), window


@given(trajectories())
def test_shares_sum_to_one(case):
    similarities, window = case
    found = credit_shares(similarities, window)
    assert found.shape == (len(similarities), similarities.shape[1] - 1)
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)).double(), atol=1e-9, rtol=0)


@given(trajectories())
def test_shares_follow_the_formula_step_by_step(case):
    similarities, window = case
    found = credit_shares(similarities, window)
    for s, row in zip(similarities.tolist(), found.tolist(), strict=True):
        means = [np.mean(s[k + 1 : k + window + 1]) for k in range(0, len(row), window)]
        gains = np.diff([s[0], *means])
        if means[-1] - s[0] < 0.05 - 1e-12:
            assert row == [1 / len(row)] * len(row)
        elif means[-1] - s[0] > 0.05 + 1e-12:
            expected = np.repeat(gains / (window * (means[-1] - s[0])), window)
            np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-9)


@given(trajectories(), st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_the_others(case, random):
    similarities, window = case
    order = list(range(len(similarities)))
    random.shuffle(order)
    expected = credit_shares(similarities, window)[order]
    assert torch.equal(credit_shares(similarities[order], window), expected)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_rescaling_the_latents_changes_nothing(scale, final_scale, seed):
    generator = torch.Generator().manual_seed(seed)
    final = torch.randn(3, 2, 4, 4, generator=generator)
    clean = [final + noise for noise in torch.randn(6, 3, 2, 4, 4, generator=generator)]
    similarities = final_similarities(clean, final)
    scaled = final_similarities([scale * x for x in clean], final_scale * final)
    torch.testing.assert_close(scaled, similarities, atol=2e-6, rtol=0)
    expected = credit_shares(similarities, 2)
    torch.testing.assert_close(credit_shares(scaled, 2), expected, atol=1e-3, rtol=0)


def test_similarities_are_cosines_of_flattened_latents():
    final = torch.tensor([[[[3.0, 4.0]]], [[[1.0, 0.0]]]])
    first = torch.tensor([[[[4.0, 3.0]]], [[[0.0, -2.0]]]])
    found = final_similarities([first, -final], final)
    torch.testing.assert_close(found, torch.tensor([[0.96, -1, 1], [0, -1, 1]]).double())


# ------------------------------------------------------------------------- the wrapper


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("similarity", ["predicted_clean", "latent"])
def test_the_wrapper_applies_the_formula(similarity, array_type, mode):
    env = CoCAReward(
        make_vec(2, array_type=array_type, autoreset_mode=mode), windows=2, similarity=similarity
    )
    for seed in range(2):  # the second episode does not see the first
        observation, _ = env.reset(seed=seed)
        rng, seen = np.random.default_rng(seed), []
        for _ in range(T):
            reported = actions_for(observation["latent"], rng, 1.0)
            env.unwrapped.report(reported)
            kept = reported if similarity == "predicted_clean" else observation["latent"]
            seen.append(torch.as_tensor(kept))
            action = actions_for(observation["latent"], rng)
            observation, _, _, _, infos = env.step(action)
        expected = credit_shares(final_similarities(seen, torch.as_tensor(action)), 2)
        final = infos.get("final_info", infos)
        credit = torch.as_tensor(final["credit"])
        torch.testing.assert_close(credit, expected.float(), atol=1e-5, rtol=0)
        assert torch.as_tensor(final["credit_guarded"]).tolist() == [False, False]
        assert final["credit_negative"].shape == (2,)


def test_rows_that_start_at_different_times():
    env = CoCAReward(make_vec(2, autoreset_mode="Disabled"), windows=4, similarity="latent")
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        observation, _, _, _, infos = env.step(actions_for(observation["latent"], rng))
    first = observation["latent"][0]
    observation, _ = env.reset(options={"reset_mask": np.array([False, True])})
    assert torch.equal(observation["latent"][0], first)
    for _ in range(2):
        observation, _, ended, _, infos = env.step(actions_for(observation["latent"], rng))
    assert ended.tolist() == [True, False]
    assert infos["_credit"].tolist() == [True, False]
    assert infos["credit"].sum(1).tolist() == pytest.approx([1, 0])


def test_predictions_near_the_final_latent_are_guarded_and_reported():
    env = CoCAReward(make_vec(2), windows=1)
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        env.unwrapped.report(observation["latent"])
        observation, _, _, _, infos = env.step(observation["latent"] * 0.9)
    assert infos["final_info"]["credit_guarded"].tolist() == [True, True]
    assert infos["final_info"]["credit"].tolist() == [[0.25] * 4] * 2
    assert infos["final_info"]["credit_negative"].tolist() == [0, 0]


def test_alpha_reaches_the_infos():
    plain, mixed = (
        episode(CoCAReward(make_vec(2), windows=4, alpha=alpha))[2].extras["credit"]
        for alpha in (0.0, 0.5)
    )
    torch.testing.assert_close(mixed, with_alpha(plain, 0.5))
    uniform = episode(UniformCreditReward(make_vec(2)))[2].extras["credit"]
    one_window = episode(CoCAReward(make_vec(2), windows=1))[2].extras["credit"]
    torch.testing.assert_close(one_window, uniform)


def test_a_missing_report_is_an_error_that_names_the_way_out():
    env = CoCAReward(make_vec(2), windows=2)
    observation, _ = env.reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"report\(predicted_clean\) .*='latent'\) needs"):
        env.step(observation["latent"])
    env.unwrapped.report(observation["latent"])
    env.step(observation["latent"])
    with pytest.raises(InvalidInputError, match="got no report since the last step"):
        env.step(observation["latent"])


def test_an_episode_replaced_in_the_middle_has_no_credit():
    env = CoCAReward(make_vec(2), windows=2, similarity="latent")
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    observation, *_ = env.step(actions_for(observation["latent"], rng))
    state = env.unwrapped.get_state()
    play(env, env.reset(seed=1)[0])  # a whole other episode in between
    env.step(observation["latent"] * 0.9)
    observation, _ = env.unwrapped.set_state(state)  # at the step where the wrapper stands
    for _ in range(T - 2):
        observation, *_ = env.step(actions_for(observation["latent"], rng))
    with pytest.raises(InvalidInputError, match=r"set_state replaced .* rows \[0, 1\]"):
        env.step(actions_for(observation["latent"], rng))


def test_a_refused_action_can_be_repeated():
    env = CoCAReward(make_vec(2), windows=2, similarity="latent")
    observation, _ = env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(observation["latent"][:1])
    _, _, episodes = play(env, observation)
    assert episodes.extras["credit"].sum(1).tolist() == pytest.approx([1, 1])


def test_after_the_end_the_environment_speaks():
    env = CoCAReward(make(), windows=2)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(env.action_space.shape, np.float32))
    envs = CoCAReward(make_vec(2, autoreset_mode="Disabled"), windows=2)
    episode(envs)
    with pytest.raises(ResetNeeded, match="ended ones in rows"):
        envs.step(torch.zeros(envs.action_space.shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": 3}, r"divides T = 4: 1, 2, 4; got 3"),
        ({"windows": 10}, "divides T = 4: 1, 2, 4; got 10"),
        ({"windows": 2, "alpha": 1.5}, "alpha from 0 to 1, got 1.5"),
        ({"windows": 2, "similarity": "pixels"}, "unknown similarity 'pixels'; known: latent, pre"),
        ({"windows": 2, "guard": 0.0}, "guard > 0, got 0.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        CoCAReward(make(), **settings)


def test_window_sizes():
    assert window_size(50, 10) == 5  # the paper's
    assert window_size(10, 10) == 1
    with pytest.raises(InvalidInputError, match="window that divides T = 4, got 3"):
        credit_shares(torch.ones(1, 5), 3)
