"""The algorithms that a run can train with, each with its options and what is recommended."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.common.image_algorithm import ImageAlgorithm
from agents.common.round_config import RoundConfig
from agents.nft import DiffusionNFT
from agents.nft.config import NFTConfig, unused_options
from agents.ppo import DiffusionPPO
from agents.ppo.config import PPOConfig
from diffusion_gym.errors import unknown_name


@dataclass(frozen=True)
class Algorithm:
    """An agent and what it is used with.

    Attributes:
        agent: Its class.
        config: What the agent is told beside its policy and environment.
        embedded: Settings for the embedded model, in place of those that suit any agent.
        checkpoint: Settings for other models, likewise.
        unused: Options of the agent that have no use beside a run's others: left out where they
            are recommended or a preset's, and not asked for.
    """

    agent: type[ImageAlgorithm]
    config: type[RoundConfig]
    embedded: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    unused: Callable[[Mapping[str, Any]], Collection[str]] = lambda options: ()


def algorithm(name: str) -> Algorithm:
    """An algorithm by name.

    Raises:
        InvalidInputError: There is none.
    """
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm(DiffusionPPO, PPOConfig),
    "nft": Algorithm(
        DiffusionNFT,
        NFTConfig,
        embedded={"learning_rate": 1e-4},
        # As released for Stable Diffusion 3.5 (see presets/nft-pickscore.toml); not tried here on
        # real weights.
        checkpoint={
            "num_inference_steps": 10,
            "eta": 0.0,
            "guidance": 1.0,
            "lora_rank": 32,
            "lora_alpha": 64.0,
            "learning_rate": 3e-4,
            "updates_per_round": 1,
            "beta": 1.0,
            "reference_coef": 1e-4,
        },
        unused=unused_options,
    ),
}
"""Every algorithm by the name that the command line knows it by."""
