"""A weighting that was tried beside those of `diffusion_gym.wrappers`."""

from collections.abc import Mapping

from torch import Tensor

from agents.runs.methods import Method, register
from diffusion_gym.envs.infos import FinishedEpisodes, Infos
from diffusion_gym.wrappers import CreditReward, VectorShaping

SIGMA_OVER_GRADIENT = "sigma/g"


class SigmaOverGradientReward(CreditReward):
    """P_i ∝ σ_i / g_i: the best weights if the reward and the network were alike in all steps.

    A step's mean gradient is C_i d_i J_i, with d_i the reward's sensitivity to x_{i+1} and J_i the
    size of ∂f/∂θ, and its noise g_i J_i, so the best weight is d_i σ_i / (g_i J_i). Constant d and
    J give this weighting; a constant mean gradient gives `NoiseAwareReward`.
    """

    def assign_credit(
        self, episodes: FinishedEpisodes, step_mask: Tensor, infos: Infos
    ) -> Mapping[str, Tensor]:
        """The same in every episode, the greatest weight 1."""
        del episodes, infos
        schedule = self.base.schedule
        weights = (schedule.std / schedule.gradient_scale).cpu()
        return {"step_weight": (weights / weights.max()).expand(step_mask.shape)}


class VectorSigmaOverGradientReward(
    SigmaOverGradientReward, VectorShaping, form_of=SigmaOverGradientReward
):
    """`SigmaOverGradientReward` of a vector environment."""


register(
    SIGMA_OVER_GRADIENT, Method(lambda env, config, length: VectorSigmaOverGradientReward(env))
)
