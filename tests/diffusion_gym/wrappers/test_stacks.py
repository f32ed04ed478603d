"""The shaping wrappers' common ground: kinds of environment, legal and illegal stacks."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from small_episodes import T, actions_for, episode, make, make_vec

from diffusion_gym import check_vector_env, finished_episodes
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CoCAReward,
    NoiseAwareReward,
    SparseReward,
    UniformCreditReward,
    hindsight,
    step_rewards,
)


def coca(env):
    return CoCAReward(env, windows=2)


def coca_of_latents(env):
    return CoCAReward(env, windows=4, similarity="latent", alpha=0.25)


def b2(env):
    return B2DiffuRLReward(env, branches=2, schedule=(2, 10))


CREDITS = {
    "sparse": SparseReward,
    "uniform": UniformCreditReward,
    "noise-aware": NoiseAwareReward,
    "coca": coca,
    "coca-latent": coca_of_latents,
}
STACKS = CREDITS | {
    "b2": b2,
    "sparse(b2)": lambda env: SparseReward(b2(env)),
    "uniform(b2)": lambda env: UniformCreditReward(b2(env)),
    "noise-aware(b2)": lambda env: NoiseAwareReward(b2(env)),
    "coca(b2)": lambda env: coca(b2(env)),
    "coca-latent(b2)": lambda env: coca_of_latents(b2(env)),
}


def check_sums(rewards, episodes, count):
    known = hindsight(episodes, T)
    assert len(episodes) == count
    credit, dense = known.credit, step_rewards(known.credit, rewards)
    assert credit.shape == known.step_mask.shape == (count, T)
    np.testing.assert_allclose(np.asarray(credit).sum(1), 1, atol=1e-5)
    bound = 1e-5 * np.maximum(1, np.abs(np.asarray(rewards)))
    assert (np.abs(np.asarray(dense).sum(1) - np.asarray(rewards)) <= bound).all()
    return known


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
@pytest.mark.parametrize("stack", STACKS)
def test_credit_sums_to_one_and_step_rewards_to_the_return(stack, array_type, mode):
    env = STACKS[stack](make_vec(array_type=array_type, autoreset_mode=mode))
    assert isinstance(env, VectorWrapper)
    kind = torch.Tensor if array_type == "torch" else np.ndarray
    for seed in range(2):
        rewards, _, episodes = episode(env, seed=seed)
        known = check_sums(rewards, episodes, 4)
        assert all(isinstance(value, kind) for value in episodes.extras.values())
        if "b2" in stack:
            trained = np.asarray(known.step_mask)
            assert not trained[:, : T - 2].any()
            assert trained.any()
            outside = np.asarray(known.credit)[trained.any(1)] * ~trained[trained.any(1)]
            assert (outside == 0).all()


@pytest.mark.parametrize("credit", CREDITS)
def test_single_environments_get_the_credit_of_a_vector_environments_rows(credit):
    envs = CREDITS[credit](make_vec(2))
    rewards, _, expected = episode(envs, seed=7)
    check_sums(rewards, expected, 2)
    env = CREDITS[credit](make())
    assert isinstance(env, gymnasium.Wrapper)
    observation, _ = env.reset(seed=8)  # row 1 of the batch
    rng = np.random.default_rng(7)
    for _ in range(T):
        # The same draws as for the batch, of which this is the second row.
        reported, action = (self_or_row(observation, rng, noise) for noise in (1.0, 0.3))
        env.unwrapped.report(torch.from_numpy(reported))
        observation, reward, _, _, info = env.step(action)
    assert reward == pytest.approx(rewards[1].item(), abs=1e-5)
    if credit == "sparse":
        assert "credit" not in info
        return
    assert info["credit"].shape == (T,)
    np.testing.assert_allclose(info["credit"], expected.extras["credit"][1], atol=1e-5)


def self_or_row(observation, rng, noise):
    latent = observation["latent"]
    drawn = rng.standard_normal((2, *latent.shape), dtype=np.float32) * np.float32(noise)
    drawn += rng.standard_normal((), dtype=np.float32) * np.float32(0.1)
    return latent * np.float32(0.8) + drawn[1]


def test_wrapped_single_environments_in_a_sync_vector_env():
    envs = SyncVectorEnv(
        [lambda: coca_of_latents(make())] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    rng = np.random.default_rng(0)
    observation, _ = envs.reset(seed=0)
    for _ in range(T):
        noise = rng.standard_normal(observation["latent"].shape, dtype=np.float32)
        observation, _, _, _, infos = envs.step(observation["latent"] * np.float32(0.8) + noise)
    final = infos["final_info"]
    assert final["credit"].shape == (2, T)
    np.testing.assert_allclose(final["credit"].sum(1), 1, atol=1e-5)
    assert final["credit_guarded"].dtype == bool
    assert final["credit_negative"].dtype == np.float32


@pytest.mark.parametrize("outside", [True, False])
def test_gymnasiums_own_wrappers_may_lie_anywhere(outside):
    record = RecordEpisodeStatistics
    env = record(coca(make())) if outside else coca(record(make()))
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        env.unwrapped.report(torch.from_numpy(observation["latent"]))
        observation, _, _, _, info = env.step(observation["latent"] * np.float32(0.9))
    assert info["episode"]["l"] == T
    assert info["credit"].sum() == pytest.approx(1)


@pytest.mark.parametrize("outside", [True, False])
def test_gymnasiums_own_vector_wrappers_may_lie_anywhere(outside):
    record, base = RecordVectorStatistics, make_vec(array_type="numpy", autoreset_mode="Disabled")
    envs = record(b2(base)) if outside else b2(record(base))
    for seed in range(2):
        rewards, infos, episodes = episode(envs, seed=seed)
        assert infos["episode"]["l"].tolist() == [T] * 4
        np.testing.assert_allclose(infos["episode"]["r"], rewards)
        assert episodes.extras["step_mask"].any()


@pytest.mark.parametrize("credit", ["uniform", "coca-latent"])
def test_the_checker_passes(credit):
    check_vector_env(CREDITS[credit](make_vec(2)))


def test_a_recipe_rebuilds_the_wrapper():
    env = coca_of_latents(make())
    rebuilt = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(rebuilt, CoCAReward)
    assert (rebuilt.windows, rebuilt.alpha, rebuilt.similarity) == (4, 0.25, "latent")
    again = gymnasium.make(UniformCreditReward(make()).spec)
    assert isinstance(again, UniformCreditReward)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (
            lambda env: coca(UniformCreditReward(env)),
            "CoCAReward cannot lie around UniformCreditReward: an episode has one credit",
        ),
        (
            lambda env: UniformCreditReward(b2(SparseReward(env))),
            "B2DiffuRLReward cannot lie around SparseReward: the credit must lie outside",
        ),
        (
            lambda env: SparseReward(b2(coca(env))),
            "B2DiffuRLReward cannot lie around CoCAReward: the credit must lie outside",
        ),
        (
            lambda env: b2(b2(env)),
            "B2DiffuRLReward cannot lie around B2DiffuRLReward: a batch has one set of groups",
        ),
        (
            lambda env: coca(RecordVectorStatistics(SparseReward(env))),
            "CoCAReward cannot lie around SparseReward",
        ),
    ],
)
def test_illegal_stacks_are_refused_with_the_reason(stack, message):
    with pytest.raises(InvalidInputError, match=message):
        stack(make_vec())


def test_other_environments_are_refused():
    with pytest.raises(InvalidInputError, match="got CartPoleEnv"):
        UniformCreditReward(gymnasium.make("CartPole-v1"))
    with pytest.raises(InvalidInputError, match=r"SyncVectorEnv; .* wrap the single environments"):
        UniformCreditReward(SyncVectorEnv([make]))
    with pytest.raises(InvalidInputError, match="expected an environment to wrap, got str"):
        UniformCreditReward("DiffusionT2I-v0")
    with pytest.raises(InvalidInputError, match="UniformCreditReward cannot lie around CoCAReward"):
        UniformCreditReward(coca(make()))


@pytest.mark.parametrize("name", STACKS)
def test_next_step_gives_what_same_step_gives(name):
    """Two episodes with the same actions, between which next-step autoreset has a step more."""
    told = {}
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        envs = STACKS[name](make_vec(4, autoreset_mode=mode))
        observation, _ = envs.reset(seed=0)
        rng, told[mode] = np.random.default_rng(0), []
        for number in range(2):
            if number and mode is AutoresetMode.NEXT_STEP:
                observation, rewards, terminated, _, infos = envs.step(observation["latent"])
                assert not rewards.any()
                assert not terminated.any()
                assert not len(finished_episodes(infos))
            for _ in range(T):
                envs.unwrapped.report(actions_for(observation["latent"], rng, 1.0))
                action = actions_for(observation["latent"], rng)
                observation, _, _, _, infos = envs.step(action)
            episodes = finished_episodes(infos)
            assert len(episodes) == 4
            known = hindsight(episodes, T)
            told[mode] += [known.credit, known.step_weight, known.step_mask, episodes.image]
            told[mode] += [episodes.extras[key] for key in sorted(episodes.extras)]
    for same, following in zip(*told.values(), strict=True):
        assert torch.equal(same, following)


@pytest.mark.parametrize("similarity", ["latent", "predicted_clean"])
def test_coca_in_next_step_with_rows_out_of_step(similarity):
    """Every row's credit is that of an environment whose rows go together."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, T, 2, *make().action_space.shape), dtype=np.float32)
    shift = {AutoresetMode.NEXT_STEP: 2, AutoresetMode.SAME_STEP: 0}
    credits = {}
    for mode, late in shift.items():
        envs = CoCAReward(make_vec(2, autoreset_mode=mode), windows=T, similarity=similarity)
        envs.reset(seed=0)
        if late:  # the second row starts anew, two steps after the first
            start = envs.unwrapped.get_state()
            for number in range(late):
                report, action = torch.from_numpy(noise[:, number])
                envs.unwrapped.report(report)
                envs.step(action)
            state = envs.unwrapped.get_state()
            state.latents[1], state.step_index[1] = start.latents[1], 0
            envs.unwrapped.set_state(state, restore_rng=False)
        credits[mode] = {}
        while len(credits[mode]) < 2:
            index = envs.unwrapped.step_index
            rows = [(int(i) % T, row) for row, i in enumerate(index)]
            report, action = (
                torch.from_numpy(np.stack([kind[i, row] for i, row in rows])) for kind in noise
            )
            envs.unwrapped.report(report)
            *_, infos = envs.step(action)
            episodes = finished_episodes(infos)
            written = episodes.extras.get("credit", ())
            for row, credit in zip(episodes.rows.tolist(), written, strict=True):
                credits[mode].setdefault(row, credit)
    same, following = (credits[mode] for mode in reversed(shift))
    for row in range(2):
        torch.testing.assert_close(following[row], same[row])
