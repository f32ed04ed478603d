"""The terminal reward by name."""

from typing import Any

from diffusion_gym.wrappers.shaping import RewardShaping, SingleShaping, VectorShaping


class SparseReward(RewardShaping):
    """DDPO's terminal reward (arXiv 2305.13301): changes nothing, and says so in a stack.

    Without credit in the infos, all of it belongs to the last step: every step is trained on the
    whole advantage.

    Args:
        env: A single or vector environment.

    Raises:
        InvalidInputError: If a wrapper below gives credit already.
    """

    role = "credit"
    ignores_rewards = True

    def __init__(self, env: Any) -> None:
        super().__init__(env)


class SingleSparseReward(SparseReward, SingleShaping, form_of=SparseReward):
    """`SparseReward` of a single environment."""


class VectorSparseReward(SparseReward, VectorShaping, form_of=SparseReward):
    """`SparseReward` of a vector environment."""
