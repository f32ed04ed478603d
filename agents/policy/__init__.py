"""The policy: a denoiser of its own, read as a Gaussian over the next latent."""

from agents.policy.export import export
from agents.policy.unet_policy import PolicyStep, UNetPolicy

__all__ = ["PolicyStep", "UNetPolicy", "export"]
