"""Reward shaping for denoising episodes, and the protocol by which agents learn of it."""

from diffusion_gym.wrappers.hindsight import Hindsight, hindsight

__all__ = ["Hindsight", "hindsight"]
