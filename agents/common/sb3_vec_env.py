"""A DiffusionT2I vector environment as Stable-Baselines3 wants it."""

from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from diffusion_gym.envs.infos import to_numpy
from diffusion_gym.envs.vector_env import DiffusionT2IVectorEnv
from diffusion_gym.errors import InvalidInputError


class SB3VecEnv(VecEnv):
    """Adapter from Gymnasium's vector API to Stable-Baselines3's, which is numpy throughout.

    Stock algorithms and `evaluate_policy` see numpy arrays and a list of infos. Our own agents
    go through to `vector_env`, so that its tensors never leave the device. Around this class,
    `VecMonitor` writes the episodes' returns that stock algorithms log.

    `evaluate_policy` and `EvalCallback` follow the policy's means unless ``deterministic=False``:
    images drawn without noise, which score differently from those that training draws.

    Args:
        vector_env: A `DiffusionT2IVectorEnv`, wrapped or not, in SAME_STEP autoreset mode: the only
            one that Stable-Baselines3 knows.

    Raises:
        InvalidInputError: It is another environment, or in another autoreset mode.
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(vector_env.unwrapped, DiffusionT2IVectorEnv):
            raise InvalidInputError(
                f"expected a DiffusionT2IVectorEnv, got {type(vector_env.unwrapped).__name__}"
            )
        mode = vector_env.metadata["autoreset_mode"]
        if mode != AutoresetMode.SAME_STEP:
            raise InvalidInputError(
                f"Stable-Baselines3 needs autoreset_mode='SameStep', got {mode.value!r}"
            )
        self.vector_env = vector_env
        self._infos: dict[str, Any] = {}
        self._actions: Any = None
        super().__init__(
            vector_env.num_envs,
            vector_env.single_observation_space,
            vector_env.single_action_space,
        )

    @property
    def base_env(self) -> DiffusionT2IVectorEnv:
        """The environment below every wrapper."""
        base = self.vector_env.unwrapped
        assert isinstance(base, DiffusionT2IVectorEnv)
        return base

    def reset(self) -> Any:
        """Starts an episode in every row; a seed given to `seed` before is used once."""
        seed = self._seeds[0]
        options = self._options[0] or None
        observation, infos = self.vector_env.reset(seed=seed, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = _split(infos, self.num_envs)
        return to_numpy(observation)

    def step_async(self, actions: Any) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Steps every row; finished rows report their last observation in their info."""
        actions = self._actions
        if self.base_env.array_type == "torch":
            actions = torch.as_tensor(actions, device=self.base_env.model.device)
        step = self.vector_env.step(actions)
        observation, rewards, terminated, truncated, infos = map(to_numpy, step)
        dones = terminated | truncated
        return observation, rewards, dones, row_infos(infos, dones, truncated)

    def close(self) -> None:
        """Closes the environment."""
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment, once per row."""
        value = getattr(self.vector_env, attr_name)
        return [value] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Rows are not environments of their own, so they cannot differ in an attribute."""
        raise InvalidInputError(
            f"cannot set {attr_name!r} of single rows: one vector environment holds them all"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of the vector environment once; its result stands for every row."""
        result = getattr(self.vector_env, method_name)(*method_args, **method_kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Whether a wrapper of that class lies around the vector environment."""
        env: Any = self.vector_env
        found = isinstance(env, wrapper_class)
        while not found and env is not env.unwrapped:
            env = env.env
            found = isinstance(env, wrapper_class)
        return [found] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The rendered rows, where the environment renders."""
        frames = self.vector_env.render()
        return [None] * self.num_envs if frames is None else list(cast(Any, frames))


def wrap_env(env: Any) -> SB3VecEnv:
    """Adapts what a user hands to one of our agents.

    Raises:
        InvalidInputError: It is no vector environment of torch tensors.
    """
    if isinstance(env, SB3VecEnv):
        wrapped = env
    elif isinstance(env, VectorEnv):
        wrapped = SB3VecEnv(env)
    else:
        kind = type(env.unwrapped if isinstance(env, gym.Env) else env).__name__
        raise InvalidInputError(
            "agents train on a batch of episodes: expected gymnasium.make_vec("
            f"'DiffusionT2I-v0', num_envs=…, array_type='torch'), got a {kind}"
        )
    if wrapped.base_env.array_type != "torch":
        raise InvalidInputError(
            "agents keep their rollouts on the device: expected array_type='torch', "
            f"got {wrapped.base_env.array_type!r}"
        )
    return wrapped


def row_infos(
    infos: dict[str, Any], dones: npt.NDArray[np.bool_], truncated: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """A step's infos in same-step autoreset as Stable-Baselines3 has them.

    Args:
        infos: NumPy arrays ``[B, …]``.
        dones: The rows whose episode ended, ``[B]``.
        truncated: Those among them that were cut short, ``[B]``.

    Returns:
        One dictionary a row. What is said about a finished episode goes before what is said about
        the next; its last observation is ``terminal_observation``.
    """
    infos = dict(infos)
    rows = _split(infos.pop("final_info", {}), len(dones))
    final = infos.pop("final_obs", None)
    for i in np.flatnonzero(dones):
        rows[i]["terminal_observation"] = _row(final, int(i))
        rows[i]["TimeLimit.truncated"] = bool(truncated[i])
    for row, current in zip(rows, _split(infos, len(dones)), strict=True):
        row.update({key: value for key, value in current.items() if key not in row})
    return rows


def _row(tree: Any, i: int) -> Any:
    """Row ``i`` of a batched tree, or of Gymnasium's object array of trees."""
    if isinstance(tree, dict):
        return {key: _row(value, i) for key, value in tree.items()}
    return tree[i]


def _split(infos: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """Gymnasium's dictionary of arrays, with masks under ``_key``, as one dictionary per row."""
    split: list[dict[str, Any]] = [{} for _ in range(rows)]
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        mask = infos.get(f"_{key}", np.ones(rows, dtype=bool))
        for i in np.flatnonzero(mask):
            split[i][key] = _row(value, int(i))
    return split
