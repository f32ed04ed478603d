"""What `DiffusionPPO` is told, beside its policy and its environment."""

from dataclasses import dataclass
from typing import Literal

from agents.common.round_config import RoundConfig
from diffusion_gym.checks import NotNegative, RateOrSchedule


@dataclass(frozen=True)
class PPOConfig(RoundConfig):
    """Rounds, advantages and updates of PPO on denoising steps (DDPO, arXiv 2305.13301).

    A round's pairs are those of its images and of all their steps that have noise and are not
    masked.
    """

    clip_range: RateOrSchedule = 2e-3
    """PPO's ε, on the ratio of the log-probabilities as the policy reduces them."""

    standardise_steps: Literal["none", "unit_variance", "scale", "center"] = "none"
    """Of the advantages of single steps, over the steps that are trained: divided by their
    deviation over the round (unit_variance) or over their prompt (scale), or also less the mean
    (center, CoCA's)."""

    kl_coef: NotNegative = 0.0
    """Weight of the KL divergence to the base model."""
