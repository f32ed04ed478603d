"""The Gymnasium environment for reinforcement learning of text-to-image diffusion models.

Importing this package registers ``DiffusionT2I-v0`` and is cheap: torch and the models are
imported when one of the names below, or the environment, is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from diffusion_gym.errors import (
    DiffusionGymError,
    InvalidInputError,
    ModelLoadError,
    RewardServerError,
    UnknownKeywordError,
)
from diffusion_gym.registration import register_envs

if TYPE_CHECKING:
    from diffusion_gym import wrappers
    from diffusion_gym.envs import (
        DenoisingState,
        DiffusionT2IEnv,
        DiffusionT2IVectorEnv,
        EnvConfig,
        FinishedEpisodes,
        check_vector_env,
        finished_episodes,
    )
    from diffusion_gym.images import image_grid
    from diffusion_gym.models import load_model
    from diffusion_gym.prompts import load_prompts
    from diffusion_gym.reference import reference_policy
    from diffusion_gym.rewards import RewardResult, make_reward, register_reward, reward_names
    from diffusion_gym.schedules import DDIMSchedule, FlowCPSSchedule, FlowSDESchedule

_LAZY = {
    "DDIMSchedule": "schedules",
    "DenoisingState": "envs",
    "DiffusionT2IEnv": "envs",
    "DiffusionT2IVectorEnv": "envs",
    "EnvConfig": "envs",
    "FinishedEpisodes": "envs",
    "FlowCPSSchedule": "schedules",
    "FlowSDESchedule": "schedules",
    "RewardResult": "rewards",
    "check_vector_env": "envs",
    "finished_episodes": "envs",
    "image_grid": "images",
    "load_model": "models",
    "load_prompts": "prompts",
    "make_reward": "rewards",
    "reference_policy": "reference",
    "register_reward": "rewards",
    "reward_names": "rewards",
}
_LAZY_MODULES = ("wrappers",)

__all__ = [
    "DDIMSchedule",
    "DenoisingState",
    "DiffusionGymError",
    "DiffusionT2IEnv",
    "DiffusionT2IVectorEnv",
    "EnvConfig",
    "FinishedEpisodes",
    "FlowCPSSchedule",
    "FlowSDESchedule",
    "InvalidInputError",
    "ModelLoadError",
    "RewardResult",
    "RewardServerError",
    "UnknownKeywordError",
    "check_vector_env",
    "finished_episodes",
    "image_grid",
    "load_model",
    "load_prompts",
    "make_reward",
    "reference_policy",
    "register_reward",
    "reward_names",
    "wrappers",
]

register_envs()


def __getattr__(name: str) -> Any:
    """Imports a name on first use."""
    if name in _LAZY_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
