"""Step weights that know how noisy each step's policy gradient is.

Notation, with steps ``i = 0 … T−1`` in sampling order:

==================  ==========================================================================
``gradient_scale``  g_i = C_i / σ_i, the noise of step i's gradient (`Schedule.gradient_scale`)
``exponent``        p in the weights P_i ∝ g_i^−p
==================  ==========================================================================
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_gym.checks import NotNegative, Share, checked
from diffusion_gym.envs.infos import FinishedEpisodes, Infos
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers.credit import CreditReward
from diffusion_gym.wrappers.shaping import SingleShaping, VectorShaping

#: The p that is recommended.
EXPONENT = 1.5


class NoiseAwareReward(CreditReward):
    """Trains each step the less, the noisier its policy gradient is: P_i ∝ g_i^−p.

    The loss of DDPO (arXiv 2305.13301) sums the log-densities of all steps, whose gradients have
    the noise g_i = C_i/σ_i (`diffusion_gym.schedules.base.Schedule.gradient_scale`): where the
    last steps add little noise to the picture, nearly all of the loss's gradient is theirs, and
    is noise. When estimates of one direction have equal means and the noise g_i, the best linear
    combination weighs them by the inverse of their variances, g_i^−2 (Gauss and Markov). Equal
    parts of all steps in the loss's gradient, g_i^−1, are the weights of PCPO (arXiv 2509.25774).
    ``python -m benchmarks.step_signal`` measures signal and noise of every step. The default lies
    between the two: it keeps 86% of the signal-to-noise of p = 2, and learned as fast on
    the embedded model with less drift (docs/noise_aware.md).

    Around `B2DiffuRLReward`, the weights are those of the steps that are trained.

    Args:
        env: A single or vector environment.
        exponent: p ≥ 0. 0 weighs all steps alike, as `SparseReward` does.
        mask_last: Leaves out the last step of the episode.
        min_weight: Leaves out steps whose weight is below this part of the greatest: they cost
            as much as others in the update, and teach little.

    Raises:
        InvalidInputError: For values that cannot work, or if a wrapper below gives credit already.
    """

    ignores_rewards = True

    def __init__(
        self,
        env: Any,
        *,
        exponent: float = EXPONENT,
        mask_last: bool = False,
        min_weight: float = 0.0,
    ) -> None:
        super().__init__(env, exponent=exponent, mask_last=mask_last, min_weight=min_weight)
        self.exponent = checked("exponent", exponent, NotNegative)
        self.mask_last = checked("mask_last", mask_last, bool)
        self.min_weight = checked("min_weight", min_weight, Share)
        if not self.step_weights.any():
            raise InvalidInputError(
                f"{self.shaping_name}: expected a step to train on, got none: {self.base.schedule} "
                f"with mask_last={self.mask_last}"
            )

    @property
    def step_weights(self) -> Tensor:
        """P_i of an episode of which all steps are trained, ``[T]`` float32 on the CPU."""
        return self._weights(torch.ones(1, self.base.schedule.num_steps, dtype=torch.bool))[0]

    def assign_credit(
        self, episodes: FinishedEpisodes, step_mask: Tensor, infos: Infos
    ) -> Mapping[str, Tensor]:
        """The weights of the steps that are trained, the greatest of them 1."""
        del episodes, infos
        weights = self._weights(step_mask)
        # An episode without a step to train is not trained, and its weights are anybody's.
        some = weights.any(1, keepdim=True)
        return {"step_weight": torch.where(some, weights, self.step_weights)}

    def _weights(self, step_mask: Tensor) -> Tensor:
        trained = step_mask.clone()
        if self.mask_last:
            trained[:, -1] = False
        scale = self.base.schedule.gradient_scale.cpu()
        return noise_aware_weights(scale, trained, self.exponent, self.min_weight)


class SingleNoiseAwareReward(NoiseAwareReward, SingleShaping, form_of=NoiseAwareReward):
    """`NoiseAwareReward` of a single environment."""


class VectorNoiseAwareReward(NoiseAwareReward, VectorShaping, form_of=NoiseAwareReward):
    """`NoiseAwareReward` of a vector environment."""


def noise_aware_weights(
    gradient_scale: Tensor, step_mask: Tensor, exponent: float, min_weight: float = 0.0
) -> Tensor:
    """P_i = (g_i / min g)^−p of the trained steps, so that the greatest weight of a row is 1.

    Args:
        gradient_scale: g_i, ``[T]``; infinite where a step has no noise, whose weight is 0.
        step_mask: Steps that are trained, ``[N, T]`` bool.
        exponent: p.
        min_weight: Smaller weights become 0.

    Returns:
        ``[N, T]`` float32; a row without a step to train on is 0.
    """
    trained = step_mask & gradient_scale.isfinite()
    scale = torch.where(trained, gradient_scale.double(), torch.inf)
    weights = (scale / scale.amin(1, keepdim=True)).pow(-exponent)
    return torch.where(trained & (weights >= min_weight), weights, 0.0).float()
