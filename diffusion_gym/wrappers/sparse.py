"""The terminal reward by name."""

from typing import Any

from diffusion_gym.wrappers.adapter import RewardShaping


class SparseReward(RewardShaping):
    """DDPO's terminal reward (arXiv 2305.13301): changes nothing, and says so in a stack.

    Without credit in the infos, all of it belongs to the last step.

    Args:
        env: A single or vector environment.

    Raises:
        InvalidInputError: If a wrapper below gives credit already.
    """

    role = "credit"

    def __init__(self, env: Any) -> None:
        super().__init__(env)
