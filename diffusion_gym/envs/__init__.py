"""The environments: a batch of denoising episodes, and the single one as a view of it."""

from diffusion_gym.envs.checker import check_vector_env
from diffusion_gym.envs.config import EnvConfig
from diffusion_gym.envs.env import DiffusionT2IEnv
from diffusion_gym.envs.infos import FinishedEpisodes, finished_episodes
from diffusion_gym.envs.state import DenoisingState
from diffusion_gym.envs.unscored import Unscored
from diffusion_gym.envs.vector_env import DiffusionT2IVectorEnv

__all__ = [
    "DenoisingState",
    "DiffusionT2IEnv",
    "DiffusionT2IVectorEnv",
    "EnvConfig",
    "FinishedEpisodes",
    "Unscored",
    "check_vector_env",
    "finished_episodes",
]
