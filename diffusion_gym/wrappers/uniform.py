"""The control for every learned or measured credit: the same for each step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_gym.envs.infos import FinishedEpisodes, Infos
from diffusion_gym.wrappers.credit import CreditReward
from diffusion_gym.wrappers.hindsight import restrict_credit
from diffusion_gym.wrappers.shaping import SingleShaping, VectorShaping


class UniformCreditReward(CreditReward):
    """Credit 1/T for every step, so that step i is trained on the share (T − i)/T of the return.

    A control for CoCA (arXiv 2505.19196), whose released ``train_uca.py`` weighs steps by their
    place after a shuffle instead, and so all alike: it shares CoCA's falling reward-to-go but knows
    nothing of the images. Around `B2DiffuRLReward` the credit is uniform over the steps that are
    trained.

    Args:
        env: A single or vector environment.

    Raises:
        InvalidInputError: If a wrapper below gives credit already.
    """

    ignores_rewards = True

    def __init__(self, env: Any) -> None:
        super().__init__(env)

    def assign_credit(
        self, episodes: FinishedEpisodes, step_mask: Tensor, infos: Infos
    ) -> Mapping[str, Tensor]:
        """The same for each step that is trained."""
        del episodes, infos
        equal = torch.full(step_mask.shape, 1 / step_mask.shape[1], dtype=torch.float64)
        return {"credit": restrict_credit(equal, step_mask).float()}


class SingleUniformCreditReward(UniformCreditReward, SingleShaping, form_of=UniformCreditReward):
    """`UniformCreditReward` of a single environment."""


class VectorUniformCreditReward(UniformCreditReward, VectorShaping, form_of=UniformCreditReward):
    """`UniformCreditReward` of a vector environment."""
