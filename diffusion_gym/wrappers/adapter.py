"""What the reward-shaping wrappers share: one class each for single and vector environments.

A shaping wrapper is written once, for a batch of B rows. ``CoCAReward(env)`` looks at what it is
given and becomes a `gymnasium.Wrapper` or a `gymnasium.vector.VectorWrapper`; the single
environment is a batch of one.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import gymnasium
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from torch import Tensor

from diffusion_gym.envs.env import DiffusionT2IEnv
from diffusion_gym.envs.infos import Infos, finished_episodes, row_of, scatter, to_numpy
from diffusion_gym.envs.vector_env import DiffusionT2IVectorEnv
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers.hindsight import hindsight

BaseEnv = DiffusionT2IEnv | DiffusionT2IVectorEnv
Role = Literal["credit", "branches"]

#: Why one shaping wrapper cannot lie around another, by (outer role, inner role).
CONFLICTS: dict[tuple[Role, Role], str] = {
    ("credit", "credit"): "an episode has one credit, the outer would overwrite the inner's",
    ("branches", "branches"): "a batch has one set of groups, and each has its own stages",
    ("branches", "credit"): "the credit must lie outside, where it sees which steps are trained",
}

if TYPE_CHECKING:
    #: For type checkers an environment of either kind; at run time `__new__` sees to that.
    EitherEnv = Any
else:
    EitherEnv = object


class SingleAdapter(RecordConstructorArgs, gymnasium.Wrapper[Any, Any, Any, Any]):
    """The part of a shaping wrapper that makes it one of single environments."""

    def __init__(self, env: gymnasium.Env[Any, Any], **settings: Any) -> None:
        RecordConstructorArgs.__init__(self, **settings)  # so that EnvSpec can rebuild it
        gymnasium.Wrapper.__init__(self, env)


class VectorAdapter(VectorWrapper[Any, Any, Any, Any, Any]):
    """The part of a shaping wrapper that makes it one of vector environments."""

    def __init__(self, env: VectorEnv[Any, Any, Any], **settings: Any) -> None:
        del settings  # vector environments have no recipe of their wrappers
        VectorWrapper.__init__(self, env)


class RewardShaping(EitherEnv):  # type: ignore[misc]
    """Base of the wrappers that say more about an episode than its return.

    The reward itself is never altered; see `diffusion_gym.wrappers.hindsight`.

    Args:
        env: A single or vector DiffusionT2I environment, wrapped or not.
        settings: The wrapper's keyword arguments, for `gymnasium.envs.registration.EnvSpec`.

    Raises:
        InvalidInputError: If it is another environment, or a wrapper below forbids this one.
    """

    role: ClassVar[Role]

    def __new__(cls, env: Any, *args: Any, **kwargs: Any) -> Self:
        """Becomes a wrapper of the kind that the environment needs."""
        del args, kwargs
        adapter = VectorAdapter if isinstance(env, VectorEnv) else SingleAdapter
        own: Any = cls
        shaping: Self = super().__new__(_adapted(own, adapter))
        return shaping

    def __init__(self, env: Any, **settings: Any) -> None:
        _check_stack(type(self), env)
        super().__init__(env, **settings)


class CreditReward(RewardShaping):
    """Base of the wrappers that share an episode's return out among its steps.

    Around `B2DiffuRLReward`, the credit is restricted to the steps that are trained.
    """

    role = "credit"

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Infos]:
        """Steps the environment and writes ``credit`` ``[T]`` into a finished episode's info."""
        self._before_step()
        observation, rewards, terminations, truncations, infos = self.env.step(action)
        episodes = finished_episodes(infos)
        if len(episodes):
            base: BaseEnv = self.unwrapped
            rows = torch.as_tensor(episodes.rows, device=base.model.device)
            known = hindsight(episodes, base.schedule.num_steps)
            step_mask = torch.as_tensor(known.step_mask).cpu()
            write_outcome(base, infos, self._credit(rows, step_mask, infos), rows)
        self._after_step()
        return observation, rewards, terminations, truncations, infos

    def _before_step(self) -> None:
        """Looks at the running episodes."""

    def _after_step(self) -> None:
        """Looks at them again."""

    def _credit(self, rows: Tensor, step_mask: Tensor, infos: Infos) -> dict[str, Tensor]:
        """What to write into the infos of the N episodes that have just ended.

        Args:
            rows: Their rows, ``[N]``.
            step_mask: Steps that are trained on, ``[N, T]`` on the CPU.
            infos: What the step returned.

        Returns:
            ``credit``, ``[N, T]`` float32, and whatever else, ``[N, …]``.
        """
        raise NotImplementedError


def shapings(env: Any) -> list[RewardShaping]:
    """The shaping wrappers around an environment, from the outermost inwards."""
    found = []
    while env is not env.unwrapped:
        if isinstance(env, RewardShaping):
            found.append(env)
        env = env.env
    return found


def num_rows(base: BaseEnv) -> int:
    """B; a single environment is a batch of one."""
    return base.num_envs if isinstance(base, DiffusionT2IVectorEnv) else 1


def write_outcome(base: BaseEnv, infos: Infos, values: Mapping[str, Tensor], rows: Tensor) -> None:
    """Adds to what the infos tell of episodes that have just ended, in place.

    Args:
        base: The environment that the infos came from.
        infos: A single environment's, or a vector environment's in either autoreset mode.
        values: What to add, ``[N, …]`` each.
        rows: Rows of the N episodes, on the environment's device.
    """
    if isinstance(base, DiffusionT2IEnv):
        infos.update(row_of(to_numpy(dict(values)), 0))
        return
    on_device = {key: value.to(base.device) for key, value in values.items()}
    laid_out = scatter(on_device, rows, base.num_envs)
    infos.get("final_info", infos).update(as_returned(base, laid_out))


def as_returned(base: DiffusionT2IVectorEnv, values: Any) -> Any:
    """Tensors as what the environment returns: themselves, or NumPy copies."""
    return values if base.array_type == "torch" else to_numpy(values)


def final_latents(base: BaseEnv, infos: Infos, rows: Tensor) -> Tensor:
    """x_T of episodes that have just ended, ``[N, C, h, w]``, whatever the autoreset mode."""
    if "final_obs" not in infos:
        return base.get_state().latents[rows]
    final = infos["final_obs"]
    if isinstance(final, dict):
        return torch.as_tensor(final["latent"][rows])
    latents = np.stack([final[row]["latent"] for row in rows.tolist()])
    return torch.from_numpy(latents).to(base.model.device)


@functools.cache
def _adapted(cls: type[Any], adapter: type[Any]) -> type[Any]:
    """``cls`` as a wrapper of one kind of environment, under the same name."""
    return type(
        cls.__name__, (cls, adapter), {"__module__": cls.__module__, "__doc__": cls.__doc__}
    )


def _check_stack(cls: type[RewardShaping], env: Any) -> None:
    if not isinstance(env, gymnasium.Env | VectorEnv):
        raise InvalidInputError(
            f"{cls.__name__}: expected an environment to wrap, got {type(env).__name__}"
        )
    if not isinstance(env.unwrapped, BaseEnv):
        raise InvalidInputError(
            f"{cls.__name__}: expected a DiffusionT2I environment from gymnasium.make or "
            f"gymnasium.make_vec, got {type(env.unwrapped).__name__}; in a SyncVectorEnv or "
            "AsyncVectorEnv, wrap the single environments"
        )
    for inner in shapings(env):
        reason = CONFLICTS.get((cls.role, inner.role))
        if reason is not None:
            raise InvalidInputError(
                f"{cls.__name__} cannot lie around {type(inner).__name__}: {reason}"
            )
