"""B²-DiffuRL: its formulas, and groups of branches in a batch."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction
from gymnasium.wrappers.vector import TransformReward
from small_episodes import T, actions_for, episode, make, make_vec, play

from diffusion_gym import finished_episodes, register_reward
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import B2DiffuRLReward, CoCAReward, hindsight
from diffusion_gym.wrappers.b2 import select_branches, trained_steps
from diffusion_gym.wrappers.coca import credit_shares, final_similarities
from diffusion_gym.wrappers.hindsight import restrict_credit
from diffusion_gym.wrappers.reward_history import RewardHistory, leave_one_out_mean

ONE_STEP_PREFIX = (T - 1, 1000)


def b2(num_envs=4, *, branches=2, schedule=ONE_STEP_PREFIX, env=None, **kwargs):
    env = env or make_vec(num_envs)
    return B2DiffuRLReward(env, branches=branches, schedule=schedule, **kwargs)


# -------------------------------------------------------------------------- formulas


def test_the_released_schedule():
    found = [trained_steps(stage, 100, 14, 20) for stage in range(100)]
    assert found == [14 + 7 * stage // 100 for stage in range(100)]
    assert (found[0], found[-1]) == (14, 20)


def test_a_schedule_rises_from_start_to_all_steps():
    found = [trained_steps(stage, 12, 3, 10) for stage in range(14)]
    assert found == [3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 10, 10, 10]
    assert trained_steps(0, 1, 5, 10) == 5
    assert trained_steps(1, 1, 5, 10) == 10


def test_selection_keeps_none_one_or_two_of_a_group():
    z = torch.tensor(
        [
            [0.4, -0.4, 0.0],  # none is extreme enough
            [0.5, 0.1, -0.5],  # ≥ for the best, < for the worst
            [2.0, 1.0, -0.6],  # both
            [3.0, 2.0, 1.0],  # the best alone, although the worst is the lowest
            [-1.0, -3.0, -2.0],  # the worst alone
        ]
    )
    expected = [[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert select_branches(z, 0.5, -0.5).int().tolist() == expected


def test_selection_leaves_out_what_is_no_number():
    z = torch.tensor([[torch.nan, 0.9, -0.9], [torch.nan, torch.nan, -0.9], [torch.nan] * 3])
    assert select_branches(z, 0.5, -0.5).int().tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert not select_branches(z[2:], -9.0, 9.0).any()


def test_history_by_hand():
    history = RewardHistory(stages=2)

    def update(prompts, rewards, valid=None):
        values = torch.tensor(rewards, dtype=torch.float64)
        scored = torch.ones(len(values), dtype=torch.bool) if valid is None else valid
        return [moments.tolist() for moments in history.update(prompts, values, scored)]

    mean, std = update(["a", "a", "b"], [1.0, 3.0, 7.0])
    assert (mean[:2], std[:2]) == ([2, 2], pytest.approx([2**0.5] * 2))  # unbiased
    assert np.isnan(std[2])  # one reward has no deviation
    mean, std = update(["a", "b", "b"], [5.0, 9.0, 100.0], torch.tensor([True, True, False]))
    assert mean == [3, 8, 8]
    assert std == pytest.approx([2, 2**0.5, 2**0.5])
    mean, _ = update(["b", "b"], [8.0, 8.0])  # a stage without "a" counts for it too
    assert mean == [8, 8]
    mean, _ = update(["a", "a"], [0.0, 2.0])  # two stages before this one: the first is forgotten
    assert mean == [pytest.approx(7 / 3)] * 2


def test_history_of_eight_stages():
    history = RewardHistory(stages=8)
    for stage in range(12):
        rewards = torch.tensor([stage, stage + 0.5], dtype=torch.float64)
        mean, _ = history.update(["a", "a"], rewards, torch.tensor([True, True]))
        assert mean[0] == np.mean(np.arange(max(0, stage - 8), stage + 1)) + 0.25


def test_leave_one_out_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0], [1.0, 2.0, 6.0]])
    valid = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    found = leave_one_out_mean(rewards, valid)
    assert found[:2].tolist() == [[4.0, 3.5, 1.5], [6.0, 3.5, 1.0]]
    assert found[2].isnan().tolist() == [False, True, False]


# ------------------------------------------------------------------------- branching


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_groups_share_their_start_and_prefix_and_then_differ(array_type):
    env = b2(6, branches=3, schedule=(2, 1000), env=make_vec(6, array_type=array_type))
    observation, infos = env.reset(seed=0)
    rng, prompts = np.random.default_rng(0), infos["prompt_id"].reshape(2, 3)
    assert (prompts == prompts[:, :1]).all()
    assert isinstance(infos["active"], type(infos["prompt_id"]))
    for step in range(T):
        latents = torch.as_tensor(observation["latent"])
        leaders = latents[[0, 3]].repeat_interleave(3, 0)
        assert torch.equal(latents, leaders) == (step <= 2)
        assert infos["active"].tolist() == ([True, False, False] * 2 if step < 2 else [True] * 6)
        assert not torch.equal(latents[0], latents[3])
        action = actions_for(observation["latent"], rng)
        if step < 2:
            action[[1, 2, 4, 5]] = np.nan  # not looked at
        observation, _, _, _, infos = env.step(action)
        if step < 2:
            executed = torch.as_tensor(observation["latent"])
            assert torch.equal(executed[2], torch.as_tensor(action[0]))
    # The next stage has begun.
    latents = torch.as_tensor(observation["latent"])
    assert torch.equal(latents, latents[[0, 3]].repeat_interleave(3, 0))
    assert infos["active"].tolist() == [True, False, False] * 2
    following = infos["prompt_id"].reshape(2, 3)
    assert (following == following[:, :1]).all()
    assert finished_episodes(infos).prompt_id.tolist() == prompts.flatten().tolist()


def test_without_a_prefix_branches_share_only_their_noise():
    env = b2(schedule=(T, 10), all_branches=True)
    observation, infos = env.reset(seed=0)
    assert infos["active"].all()
    assert torch.equal(observation["latent"][0], observation["latent"][1])
    _, _, episodes = play(env, observation)
    assert episodes.extras["step_mask"].all()


def test_leaders_are_the_rows_of_an_unwrapped_environment():
    observation, infos = b2(4).reset(seed=3)
    plain, plain_infos = make_vec(4).reset(seed=3)
    for row in (0, 2):
        assert torch.equal(observation["latent"][row], plain["latent"][row])
        assert infos["prompt_id"][row] == plain_infos["prompt_id"][row]


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_z_selects_branches_and_their_suffix(mode):
    env = b2(4, env=make_vec(4, autoreset_mode=mode), history=1)
    earlier = []
    for stage in range(3):
        options = {"prompts": ["a cat"] * 4}
        rewards, _, episodes = play(env, env.reset(seed=stage, options=options)[0], seed=stage)
        rewards = rewards.double()
        known = torch.cat([*earlier, rewards])
        z = (rewards - known.mean()) / (known.std() + 1e-8)
        torch.testing.assert_close(episodes.extras["advantage"].double(), z, atol=1e-5, rtol=0)
        selected = select_branches(z.view(2, 2), 0.5, -0.5).flatten()
        assert episodes.extras["step_mask"].tolist() == [
            [bool(chosen) and step >= 1 for step in range(T)] for chosen in selected
        ]
        earlier = [rewards]
        assert env.stage == stage + 1


def test_the_last_steps_grow_with_the_stages():
    env = b2(2, schedule=(2, 3))
    found = []
    for seed in range(4):
        found.append(env.num_trained_steps)
        _, infos = env.reset(seed=seed)
        assert infos["active"].tolist() == [True, found[-1] == T]
        assert env.stage == seed
        _, _, episodes = play(env, env.reset(seed=seed)[0], seed=seed)  # the first never ended
        mask = episodes.extras["step_mask"]
        assert mask.any()
        assert mask.sum(1).max() == found[-1]
    assert found == [2, 3, 4, 4]


def test_same_step_autoreset_goes_on_with_the_next_stage():
    env = b2(2, schedule=(2, 3))
    observation, _ = env.reset(seed=0)
    for stage in range(3):
        assert env.stage == stage
        rng = np.random.default_rng(stage)
        for _ in range(T):
            action = actions_for(observation["latent"], rng)
            observation, _, _, _, infos = env.step(action)
        assert finished_episodes(infos).extras["step_mask"].sum(1).max() == stage + 2


def test_all_branches_and_the_branch_baseline():
    rewards, _, episodes = episode(b2(6, branches=3, all_branches=True, positive=9, negative=-9))
    assert episodes.extras["step_mask"].sum().item() == 6 * (T - 1)
    options = {"prompts": ["a cat"] * 6}
    env = b2(6, branches=3, baseline="branch")
    rewards, _, episodes = play(env, env.reset(seed=0, options=options)[0])
    groups = rewards.double().view(2, 3)
    others = (groups.sum(1, keepdim=True) - groups) / 2
    z = (groups - others) / rewards.double().std()
    found = episodes.extras["advantage"].double().view(2, 3)
    torch.testing.assert_close(found, z, atol=1e-5, rtol=0)
    assert torch.equal(
        episodes.extras["step_mask"].any(1).view(2, 3), select_branches(z, 0.5, -0.5)
    )


def breaks_on_bright_images(device):
    def score(images, prompts):
        brightness = images.mean((1, 2, 3))
        return torch.where(brightness > brightness.median(), torch.nan, brightness)

    return score


@pytest.mark.parametrize("baseline", ["history", "branch"])
def test_images_that_could_not_be_scored_take_no_part(baseline):
    register_reward("breaks_on_bright_images")(breaks_on_bright_images)
    unsound = make_vec(6, reward="breaks_on_bright_images")
    env = b2(6, branches=3, env=unsound, all_branches=True, baseline=baseline)
    rewards, _, episodes = episode(env)
    valid = episodes.reward_valid
    assert 0 < valid.sum() < 6
    mask, advantage = episodes.extras["step_mask"], episodes.extras["advantage"]
    assert not mask[~valid].any()
    assert (advantage[~valid] == 0).all()
    assert advantage.isfinite().all()
    remembered = env.state_dict()["history"][0].values()
    assert sorted(itertools.chain(*remembered)) == pytest.approx(sorted(rewards[valid].tolist()))


def test_a_stage_without_survivors_counts():
    env = b2(positive=9, negative=-9)
    _, _, episodes = episode(env)
    assert not episodes.extras["step_mask"].any()
    assert env.stage == 1
    assert len(env.state_dict()["history"]) == 1


# ------------------------------------------------------------------------ composition


def test_coca_inside_the_suffix():
    """Over all steps, with the leader's predictions in the prefix, then restricted."""
    env = CoCAReward(b2(all_branches=True), windows=2)
    observation, _ = env.reset(seed=0)
    rng, seen = np.random.default_rng(0), []
    for step in range(T):
        reported = actions_for(observation["latent"], rng, 1.0)
        env.unwrapped.report(reported)
        seen.append(reported[[0, 0, 2, 2]] if step < 1 else reported)
        action = actions_for(observation["latent"], rng)
        observation, _, _, _, infos = env.step(action)
    known = hindsight(finished_episodes(infos), T)
    shares = credit_shares(final_similarities(seen, action), 2)
    expected = restrict_credit(shares, known.step_mask).float()
    assert known.step_mask.tolist() == [[False, True, True, True]] * 4
    assert not infos["final_info"]["credit_guarded"].any()
    torch.testing.assert_close(known.credit, expected, atol=1e-5, rtol=0)


def test_an_end_without_a_next_action_has_no_mark():
    env = b2(env=make_vec(4, autoreset_mode="Disabled"))
    _, infos, episodes = episode(env)
    assert "active" not in infos
    assert set(episodes.extras) == {"step_mask", "advantage"}


def test_rewards_that_a_wrapper_below_changes_are_ranked():
    turned = TransformReward(make_vec(4), lambda rewards: -rewards)
    options = {"prompts": ["a cat"] * 4}
    rewards, _, episodes = play(env := b2(env=turned), env.reset(seed=0, options=options)[0])
    assert torch.equal(rewards, -episodes.returns)
    order = episodes.extras["advantage"].argsort()
    assert torch.equal(order, rewards.argsort())


# ------------------------------------------------------------------- state and errors


def test_stage_and_history_survive():
    def run(env, seeds):
        return [episode(env, seed=seed)[2].extras["advantage"] for seed in seeds]

    whole, first, second = b2(), b2(), b2()
    expected = run(whole, range(3))
    run(first, range(2))
    state = first.state_dict()
    run(first, range(5, 7))  # what happens afterwards does not reach the copy
    second.load_state_dict(state)
    assert second.stage == 2
    assert torch.equal(run(second, [2])[0], expected[2])
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"branches": 3}, "num_envs=4 and branches=3"),
        ({"branches": 1}, "num_envs=4 and branches=1"),
        ({"branches": 8}, "num_envs=4 and branches=8"),
        ({"baseline": "critic"}, "unknown baseline 'critic'; known: branch, history"),
        ({"schedule": (0, 10)}, r"1 ≤ start ≤ T = 4 and stages ≥ 1, got \(0, 10\)"),
        ({"schedule": (5, 10)}, r"got \(5, 10\)"),
        ({"schedule": (2, 0)}, r"got \(2, 0\)"),
        ({"positive": -1.0}, "negative ≤ positive, got negative=-0.5, positive=-1.0"),
        ({"history": -1}, "0 or more stages, got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        b2(**settings)


def test_a_single_environment_is_refused():
    with pytest.raises(InvalidInputError, match=r"make_vec\('DiffusionT2I-v0'\), got OrderEnf"):
        B2DiffuRLReward(make())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_ids": [0, 1, 2, 2]}, r"agree within each group .* got \[0, 1\] in rows 0 to 1"),
        ({"prompts": ["a", "a", "b", "c"]}, r"got \['b', 'c'\] in rows 2 to 3"),
        ({"reset_mask": np.array([True, True, False, False])}, "a reset_mask of all rows"),
        ({"state": None}, "no reset option 'state'"),
        ({"prompts": ["a", "b"]}, "expected a list of 4 prompts"),
    ],
)
def test_bad_reset_options(options, message):
    env = b2()
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match=message):
        env.reset(options=options)


def test_rows_out_of_step_and_actions_of_another_batch_are_refused():
    env = b2(env=make_vec(4, autoreset_mode="Disabled"))
    observation, _ = env.reset(seed=0, options={"reset_mask": np.ones(4, bool)})
    with pytest.raises(InvalidAction, match=r"got \(3, 16, 8, 8\)"):
        env.step(observation["latent"][:3])
    env.step(observation["latent"])
    env.unwrapped.reset(options={"reset_mask": np.array([True, False, False, False])})
    with pytest.raises(InvalidInputError, match=r"same step, got rows at steps \[0, 1, 1, 1\]"):
        env.step(observation["latent"])
