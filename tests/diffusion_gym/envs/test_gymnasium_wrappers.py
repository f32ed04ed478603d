"""Gymnasium's own wrappers and vectorisers around the environments."""

import functools
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import (
    FlattenObservation,
    RecordEpisodeStatistics,
    RecordVideo,
    TransformObservation,
    vector,
)
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from packaging.version import Version

import diffusion_gym
from diffusion_gym import finished_episodes, reference_policy
from diffusion_gym.envs.infos import to_numpy

T = 3


def make(**kwargs):
    return gymnasium.make("diffusion_gym:DiffusionT2I-v0", num_inference_steps=T, **kwargs)


def make_vec(num_envs=3, **kwargs):
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=num_envs, num_inference_steps=T, **kwargs)


def test_record_episode_statistics():
    env = RecordEpisodeStatistics(make())
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        observation, reward, _, _, info = env.step(observation["latent"])
    assert info["episode"]["l"] == T
    assert info["episode"]["r"] == pytest.approx(reward, abs=1e-5)


COUNTS_SAME_STEP = pytest.mark.skipif(
    Version(gymnasium.__version__) < Version("1.4"),
    reason="gymnasium's wrapper skips the first step after a same-step reset before 1.4",
)


@pytest.mark.parametrize(
    "mode", [pytest.param("SameStep", marks=COUNTS_SAME_STEP), "NextStep", "Disabled"]
)
def test_record_episode_statistics_of_vector_envs(mode):
    envs = RecordVectorStatistics(make_vec(autoreset_mode=mode))
    for episode in range(2):
        if mode == "Disabled":
            observation, _ = envs.reset(options={"reset_mask": np.ones(3, bool)})
        elif episode == 0:
            observation, _ = envs.reset(seed=0)
        elif mode == "NextStep":
            observation, *_ = envs.step(observation["latent"])
        for _ in range(T):
            observation, rewards, terminations, _, infos = envs.step(observation["latent"] * 0.9)
        assert terminations.all()
        assert infos["episode"]["l"].tolist() == [T] * 3
        np.testing.assert_allclose(infos["episode"]["r"], rewards)
        assert len(finished_episodes(infos)) == 3
    assert len(envs.return_queue) == 6


def test_flatten_observation():
    env = FlattenObservation(make())
    observation, _ = env.reset(seed=0)
    plain = make().reset(seed=0)[0]
    assert observation in env.observation_space
    assert observation.shape == (sum(value.size for value in plain.values()),)
    np.testing.assert_array_equal(observation[: plain["latent"].size], plain["latent"].ravel())


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos")
def test_record_video(tmp_path):
    env = RecordVideo(make(render_mode="rgb_array"), str(tmp_path), episode_trigger=lambda _: True)
    policy = reference_policy(env)
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        observation, *_ = env.step(policy(observation)[0])
    env.close()
    (video,) = tmp_path.glob("*.mp4")
    assert video.stat().st_size > 1000


def test_render_collection():
    env = make(render_mode="rgb_array_list")
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        observation, *_, info = env.step(observation["latent"] * np.float32(0.9))
    frames = env.render()
    assert len(frames) == T + 1
    np.testing.assert_array_equal(frames[-1], info["image"])


def collect(envs):
    """One episode and the first step of the next, as arrays."""
    observation, _ = envs.reset(seed=0)
    collected = []
    for _ in range(T + 1):
        action = np.zeros(envs.action_space.shape, np.float32)
        if envs.metadata["autoreset_mode"] is not AutoresetMode.NEXT_STEP:
            action = observation["latent"] * np.float32(0.9)
        observation, rewards, terminations, _, infos = envs.step(action)
        episodes = finished_episodes(infos)
        collected += [observation["latent"], rewards, terminations, episodes.prompt_id]
        collected += [episodes.image, *episodes.reward_terms.values()]
    envs.close()
    return collected


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_sync_vector_env(mode):
    collected = collect(SyncVectorEnv([make, make], autoreset_mode=mode))
    for one, other in zip(collected, collect(make_vec(2, autoreset_mode=mode)), strict=True):
        np.testing.assert_allclose(one, other, atol=1 if one.dtype == np.uint8 else 1e-5)
    ends = [array.shape[0] for array in collected if array.ndim == 4 and array.shape[-1] == 3]
    assert 2 in ends


def assert_same(one, other):
    """Equal trees, but for images' rounding in batches of another size."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one.dtype.kind == other.dtype.kind  # tensors of rewards are float32
        assert one.shape == other.shape
        atol = 1 if one.dtype == np.uint8 else 1e-5
        np.testing.assert_allclose(one.astype(float), other.astype(float), atol=atol)


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_next_step_is_gymnasiums_own(array_type):
    """Everything that is returned, with rows in step and, after a reset of some, out of step."""
    theirs = SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    ours = make_vec(3, autoreset_mode=AutoresetMode.NEXT_STEP, array_type=array_type)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert_same(theirs.reset(seed=4)[0], to_numpy(ours.reset(seed=4)[0]))
    ends = []
    for number in range(3 * T):
        if number == T + 2:
            for envs in (theirs, ours):
                envs.reset(options={"reset_mask": np.array([False, True, False])})
        observation = theirs._observations
        actions = observation["latent"] * np.float32(0.9)
        expected = theirs.step(actions)
        waiting = ours.rows_to_reset
        actions[waiting] = np.nan  # whose action counts for nothing
        given = torch.from_numpy(actions) if array_type == "torch" else actions
        found = [to_numpy(part) for part in ours.step(given)]
        for one, other in zip(expected, found, strict=True):
            assert_same(one, other)
        assert not expected[1][waiting].any()
        assert (ours.step_index[waiting] == 0).all()
        ends.append(expected[2].tolist())
    assert [True] * 3 in ends
    assert [True, False, True] in ends
    assert ours.images_scored == sum(sum(row) for row in ends)


def test_a_policy_draws_through_the_ends_of_next_step():
    """The reference policy acts on the last observation as on any other, and is not looked at."""
    envs = make_vec(2, autoreset_mode="NextStep", array_type="torch", render_mode="rgb_array")
    policy = reference_policy(envs)
    observation, _ = envs.reset(seed=0)
    for number in range(2 * T + 1):
        observation, rewards, terminated, _, infos = envs.step(policy(observation)[0])
        assert bool(terminated.all()) == (number % (T + 1) == T - 1)
        assert bool(rewards.any()) == bool(terminated.all())
        if terminated.all():
            frames = np.stack(envs.render())
            assert np.abs(frames.astype(int) - infos["image"].numpy()).max() <= 1
    diffusion_gym.check_vector_env(envs)


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_async_vector_env(context, workers):
    # A forked worker would hang in OpenMP if the parent's threads were taken for its own.
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(400, 400) @ torch.randn(400, 400)
    try:
        makers = [functools.partial(make, device="cpu")] * workers
        envs = AsyncVectorEnv(makers, context=context, autoreset_mode="SameStep")
        collected = collect(envs)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(collected, collect(make_vec(workers)), strict=True):
        np.testing.assert_allclose(one, other, atol=1 if one.dtype == np.uint8 else 1e-5)


def unchanged(value):
    return value


MODES, EITHER_ARRAY = ("SameStep", "NextStep", "Disabled"), ("numpy", "torch")
NOT_SAME_STEP = MODES[1:]
WRAPPERS = {
    "TransformObservation": (
        functools.partial(vector.TransformObservation, func=unchanged),
        NOT_SAME_STEP,
        EITHER_ARRAY,
    ),
    "FilterObservation": (
        functools.partial(vector.FilterObservation, filter_keys=["latent", "timestep"]),
        NOT_SAME_STEP,
        EITHER_ARRAY,
    ),
    "FlattenObservation": (vector.FlattenObservation, NOT_SAME_STEP, EITHER_ARRAY),
    "VectorizeTransformObservation": (
        functools.partial(
            vector.VectorizeTransformObservation,
            wrapper=TransformObservation,
            func=unchanged,
            observation_space=None,
        ),
        NOT_SAME_STEP,
        ("numpy",),
    ),
    "RecordEpisodeStatistics": (RecordVectorStatistics, MODES, ("numpy",)),
    "DictInfoToList": (vector.DictInfoToList, MODES, ("numpy",)),
    "NormalizeReward": (vector.NormalizeReward, MODES, ("numpy",)),
    "TransformAction": (
        functools.partial(vector.TransformAction, func=unchanged),
        MODES,
        EITHER_ARRAY,
    ),
    "ClipAction": (vector.ClipAction, MODES, EITHER_ARRAY),
    "TransformReward": (
        functools.partial(vector.TransformReward, func=unchanged),
        MODES,
        EITHER_ARRAY,
    ),
    "ClipReward": (
        functools.partial(vector.ClipReward, min_reward=-1, max_reward=1),
        MODES,
        EITHER_ARRAY,
    ),
}
"""Of the docstring of DiffusionT2IVectorEnv: what each needs."""


def run_wrapped(wrap, mode, array_type):
    """Two episodes, with actions that do not depend on what the wrapper makes of observations."""
    envs = make_vec(2, autoreset_mode=mode, array_type=array_type, device="cpu")
    action = np.zeros(envs.action_space.shape, np.float32)
    wrapped = wrap(envs)
    wrapped.reset(seed=0)
    for _ in range(2):
        for _ in range(T):
            *_, terminated, _, _ = wrapped.step(
                torch.from_numpy(action) if array_type == "torch" else action
            )
        assert terminated.all()
        if mode == "Disabled":
            wrapped.reset(options={"reset_mask": np.ones(2, bool)})
        elif mode == "NextStep":
            wrapped.step(torch.from_numpy(action) if array_type == "torch" else action)
    envs.close()


@pytest.mark.filterwarnings("ignore:.*has all its values")
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("array_type", EITHER_ARRAY)
@pytest.mark.parametrize("mode", MODES)
def test_which_mode_and_array_type_each_vector_wrapper_needs(name, mode, array_type):
    wrap, modes, array_types = WRAPPERS[name]
    if mode not in modes:
        with pytest.raises(ValueError, match="Expected autoreset_mode to be NEXT_STEP or DISABLED"):
            run_wrapped(wrap, mode, array_type)
    elif array_type not in array_types:
        with pytest.raises((TypeError, AssertionError, RuntimeError)):
            run_wrapped(wrap, mode, array_type)
    else:
        run_wrapped(wrap, mode, array_type)


def test_the_docstring_has_this_table():
    documented = {}
    for line in make_vec(1).unwrapped.__doc__.splitlines():
        found = re.fullmatch(r'(not "SameStep"|any) +(either|"numpy") +(.+)', line.strip())
        if found:
            documented |= dict.fromkeys(found[3].split(", "), (found[1], found[2]))

    def words(modes, array_types):
        mode = {MODES: "any", NOT_SAME_STEP: 'not "SameStep"'}[modes]
        return mode, "either" if len(array_types) == 2 else f'"{array_types[0]}"'

    assert documented == {
        name: words(modes, array_types) for name, (_, modes, array_types) in WRAPPERS.items()
    }
