"""What every agent needs: advantages, the adapter to Stable-Baselines3, checkpoints."""

from agents.common.advantages import GroupStatistics, PromptStatistics
from agents.common.checkpoint import load_policy, save_checkpoint
from agents.common.sb3_vec_env import SB3VecEnv, wrap_env

__all__ = [
    "GroupStatistics",
    "PromptStatistics",
    "SB3VecEnv",
    "load_policy",
    "save_checkpoint",
    "wrap_env",
]
