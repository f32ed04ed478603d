"""Gymnasium's own wrappers and vectorisers around the environments."""

import functools

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

from diffusion_gym import finished_episodes, reference_policy

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


@pytest.mark.parametrize("mode", [pytest.param("SameStep", marks=COUNTS_SAME_STEP), "Disabled"])
def test_record_episode_statistics_of_vector_envs(mode):
    envs = RecordVectorStatistics(make_vec(autoreset_mode=mode))
    for episode in range(2):
        if mode == "Disabled":
            observation, _ = envs.reset(options={"reset_mask": np.ones(3, bool)})
        elif episode == 0:
            observation, _ = envs.reset(seed=0)
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
    if mode == "SameStep":
        for one, other in zip(collected, collect(make_vec(2)), strict=True):
            np.testing.assert_allclose(one, other, atol=1 if one.dtype == np.uint8 else 1e-5)
    ends = [array.shape[0] for array in collected if array.ndim == 4 and array.shape[-1] == 3]
    assert 2 in ends


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


EITHER_MODE, EITHER_ARRAY = ("SameStep", "Disabled"), ("numpy", "torch")
WRAPPERS = {
    "TransformObservation": (
        functools.partial(vector.TransformObservation, func=unchanged),
        ("Disabled",),
        EITHER_ARRAY,
    ),
    "FilterObservation": (
        functools.partial(vector.FilterObservation, filter_keys=["latent", "timestep"]),
        ("Disabled",),
        EITHER_ARRAY,
    ),
    "FlattenObservation": (vector.FlattenObservation, ("Disabled",), EITHER_ARRAY),
    "VectorizeTransformObservation": (
        functools.partial(
            vector.VectorizeTransformObservation,
            wrapper=TransformObservation,
            func=unchanged,
            observation_space=None,
        ),
        ("Disabled",),
        ("numpy",),
    ),
    "RecordEpisodeStatistics": (RecordVectorStatistics, EITHER_MODE, ("numpy",)),
    "DictInfoToList": (vector.DictInfoToList, EITHER_MODE, ("numpy",)),
    "NormalizeReward": (vector.NormalizeReward, EITHER_MODE, ("numpy",)),
    "TransformAction": (
        functools.partial(vector.TransformAction, func=unchanged),
        EITHER_MODE,
        EITHER_ARRAY,
    ),
    "ClipAction": (vector.ClipAction, EITHER_MODE, EITHER_ARRAY),
    "TransformReward": (
        functools.partial(vector.TransformReward, func=unchanged),
        EITHER_MODE,
        EITHER_ARRAY,
    ),
    "ClipReward": (
        functools.partial(vector.ClipReward, min_reward=-1, max_reward=1),
        EITHER_MODE,
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
    envs.close()


@pytest.mark.filterwarnings("ignore:.*has all its values")
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("array_type", EITHER_ARRAY)
@pytest.mark.parametrize("mode", EITHER_MODE)
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
        mode, _, rest = line.strip().partition(" ")
        array_type, _, names = rest.strip().partition(" ")
        if mode in ('"Disabled"', "either"):
            documented |= dict.fromkeys(names.strip().split(", "), (mode, array_type))

    def word(needs):
        return "either" if len(needs) == 2 else f'"{needs[0]}"'

    assert documented == {
        name: (word(modes), word(array_types)) for name, (_, modes, array_types) in WRAPPERS.items()
    }
