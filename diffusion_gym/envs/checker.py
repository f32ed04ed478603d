"""Checks that a vector environment keeps its promises, for those who wrap or extend it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from diffusion_gym.envs.env import DiffusionT2IEnv
from diffusion_gym.envs.infos import finished_episodes

#: How far latents, embeddings and rewards of a row may differ between a batch and a batch of one.
TOLERANCE = 1e-4


def check_vector_env(envs: VectorEnv[Any, Any, Any], seed: int = 0) -> None:
    """Runs two short episodes and checks spaces, devices, autoreset, infos, state and seeding.

    The actions are scaled-down latents, so no denoiser is needed.

    Args:
        envs: A `DiffusionT2IVectorEnv`, wrapped or not. It is left in a state of its own.
        seed: Seed of the first row.

    Raises:
        AssertionError: If a promise is broken; the message says which.
    """
    first, second = _run(envs, seed), _run(envs, seed)
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        _require(_equal(one, other), f"step {step} differs after a second reset(seed={seed})")
    for observation, *_ in first:
        _check_observation(envs, observation)
    for step, (_, rewards, terminations, truncations, infos) in enumerate(first[1:], start=1):
        _check_step(envs, step, rewards, terminations, truncations, infos)
    _check_state(envs, seed)
    _check_single_envs(envs, first, seed)


def _run(envs: Any, seed: int) -> list[tuple[Any, ...]]:
    """One episode: (observation, rewards, terminations, truncations, infos) after every call."""
    observation, infos = envs.reset(seed=seed)
    calls = [(observation, None, None, None, infos)]
    for _ in range(envs.unwrapped.schedule.num_steps):
        calls.append(envs.step(_action(calls[-1][0]["latent"])))
    return calls


def _action(latents: Any) -> Any:
    return latents * 0.9


def _check_observation(envs: Any, observation: Mapping[str, Any]) -> None:
    base = envs.unwrapped
    for key, space in envs.observation_space.spaces.items():
        _require(key in observation, f"expected an observation with {key!r}")
        value = observation[key]
        if base.array_type == "torch":
            _require(isinstance(value, Tensor), f"expected a tensor as {key!r}")
            _require(value.device == base.device, f"expected {key!r} on {base.device}")
        _require(space.contains(_numpy(value)), f"expected {key!r} inside its space {space}")


def _check_step(
    envs: Any, step: int, rewards: Any, terminations: Any, truncations: Any, infos: Any
) -> None:
    base, count = envs.unwrapped, envs.num_envs
    last = step == base.schedule.num_steps
    _require(_numpy(rewards).shape == (count,), f"expected rewards of shape ({count},)")
    _require(not _numpy(truncations).any(), "expected no truncation, ever")
    _require(
        bool((_numpy(terminations) == last).all()),
        f"expected all rows to terminate in step {base.schedule.num_steps} and no other",
    )
    if not last:
        _require(not _numpy(rewards).any(), "expected rewards of 0 before the last step")
    _require("prompt_id" in infos, "expected 'prompt_id' in every info")
    episodes = finished_episodes(infos)
    _require(len(episodes) == (count if last else 0), "expected images of finished episodes only")
    if last:
        height, width = base.model.image_shape[1:]
        shape = (count, height, width, 3)
        _require(episodes.image.shape == shape, f"expected finished images of shape {shape}")
        returns = _numpy(episodes.returns)
        _require(
            returns.shape == (count,) and returns.dtype == np.float32,
            f"expected finished returns of shape ({count},) in float32",
        )
        same_step = base.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        _require(
            ("final_info" in infos) == same_step,
            "expected 'final_info' in same-step autoreset and only there",
        )


def _check_state(envs: Any, seed: int) -> None:
    """After the state is put back, the same action leads to the same result."""
    base = envs.unwrapped
    observation, _ = envs.reset(seed=seed)
    observation = envs.step(_action(observation["latent"]))[0]
    state = base.get_state()
    action = _action(observation["latent"])
    expected = envs.step(action)
    restored = base.set_state(state)[0]
    _require(_equal(restored, observation), "expected set_state to bring the observation back")
    _require(_equal(base.step(action)[0], expected[0]), "expected set_state to bring the step back")


def _check_single_envs(envs: Any, calls: list[tuple[Any, ...]], seed: int) -> None:
    """First and last row equal single environments seeded alike."""
    for row in sorted({0, envs.num_envs - 1}):
        single = DiffusionT2IEnv(**dataclasses.asdict(envs.unwrapped.config))
        observation, _ = single.reset(seed=seed + row)
        for step, (expected, *_) in enumerate(calls[:-1]):
            _require(
                _close(observation, {key: value[row] for key, value in expected.items()}),
                f"expected row {row} to equal the single environment at step {step}",
            )
            observation, reward, *_ = single.step(_action(observation["latent"]))
        reward_of_row = float(calls[-1][1][row])
        _require(
            abs(reward - reward_of_row) <= TOLERANCE,
            f"expected row {row} to get the single environment's reward {reward}, "
            f"got {reward_of_row}",
        )
        single.close()


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise AssertionError(promise)


def _numpy(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _equal(one: Any, other: Any) -> bool:
    return _compare(one, other, 0.0)


def _close(one: Any, other: Any) -> bool:
    return _compare(one, other, TOLERANCE)


def _compare(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(
            _compare(one[key], other[key], tolerance) for key in one
        )
    if isinstance(one, tuple | list):
        return all(_compare(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if one is None:
        return other is None
    a, b = _numpy(one), _numpy(other)
    if a.dtype == object:
        return all(_compare(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if tolerance == 0.0 or a.dtype == bool:
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    return bool(np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True))
