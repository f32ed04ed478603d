"""PPO on denoising steps (DDPO, arXiv 2305.13301): rollout, buffer, update, top to bottom."""

from agents.ppo.buffer import Minibatch, Trajectories, TrajectoryBuffer
from agents.ppo.ppo import DiffusionPPO, RewardFailureError
from agents.ppo.standardisation import StepStandardisation
from agents.ppo.step_rewards import StepRewards
from agents.ppo.update import ppo_loss

__all__ = [
    "DiffusionPPO",
    "Minibatch",
    "RewardFailureError",
    "StepRewards",
    "StepStandardisation",
    "Trajectories",
    "TrajectoryBuffer",
    "ppo_loss",
]
