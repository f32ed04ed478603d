"""Reward shaping for denoising episodes, and the protocol by which agents learn of it.

Wrappers leave the reward as it is, 0 … 0, r, and tell the agent in the finished episode's info
what each step weighs. It trains step i on **A · P_i**, A the episode's advantage, and finds P_i in
one of two channels:

- ``credit``, each step's share of the return: P_i = Σ_{j≥i} credit_j, as rewards are summed up;
- ``step_weight``, P_i itself.

See `hindsight` for the whole protocol, and `CreditReward` for how to write a wrapper.
"""

from diffusion_gym.wrappers.b2 import B2DiffuRLReward
from diffusion_gym.wrappers.coca import CoCAReward, SingleCoCAReward, VectorCoCAReward
from diffusion_gym.wrappers.credit import CreditReward
from diffusion_gym.wrappers.hindsight import (
    Hindsight,
    credit_of,
    credit_to_go,
    hindsight,
    restrict_credit,
    step_rewards,
)
from diffusion_gym.wrappers.noise_aware import (
    NoiseAwareReward,
    SingleNoiseAwareReward,
    VectorNoiseAwareReward,
)
from diffusion_gym.wrappers.shaping import (
    RewardShaping,
    SingleShaping,
    VectorShaping,
    shapings,
)
from diffusion_gym.wrappers.sparse import SingleSparseReward, SparseReward, VectorSparseReward
from diffusion_gym.wrappers.uniform import (
    SingleUniformCreditReward,
    UniformCreditReward,
    VectorUniformCreditReward,
)

__all__ = [
    "B2DiffuRLReward",
    "CoCAReward",
    "CreditReward",
    "Hindsight",
    "NoiseAwareReward",
    "RewardShaping",
    "SingleCoCAReward",
    "SingleNoiseAwareReward",
    "SingleShaping",
    "SingleSparseReward",
    "SingleUniformCreditReward",
    "SparseReward",
    "UniformCreditReward",
    "VectorCoCAReward",
    "VectorNoiseAwareReward",
    "VectorShaping",
    "VectorSparseReward",
    "VectorUniformCreditReward",
    "credit_of",
    "credit_to_go",
    "hindsight",
    "restrict_credit",
    "shapings",
    "step_rewards",
]
