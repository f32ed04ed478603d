"""Rewards: what an image is worth for a prompt."""

from diffusion_gym.rewards.base import RewardFunction, RewardResult
from diffusion_gym.rewards.isolation import score
from diffusion_gym.rewards.registry import make_reward, register_reward, reward_names

__all__ = [
    "RewardFunction",
    "RewardResult",
    "make_reward",
    "register_reward",
    "reward_names",
    "score",
]
