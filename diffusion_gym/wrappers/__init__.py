"""Reward shaping for denoising episodes, and the protocol by which agents learn of it."""

from diffusion_gym.wrappers.adapter import shapings
from diffusion_gym.wrappers.b2 import B2DiffuRLReward
from diffusion_gym.wrappers.coca import CoCAReward
from diffusion_gym.wrappers.hindsight import Hindsight, hindsight, step_rewards
from diffusion_gym.wrappers.sparse import SparseReward
from diffusion_gym.wrappers.uniform import UniformCreditReward

__all__ = [
    "B2DiffuRLReward",
    "CoCAReward",
    "Hindsight",
    "SparseReward",
    "UniformCreditReward",
    "hindsight",
    "shapings",
    "step_rewards",
]
