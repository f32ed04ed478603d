"""Episodes that end before their rewards are computed."""

from dataclasses import dataclass

from torch import Tensor

from diffusion_gym.envs.infos import Infos, scatter, to_numpy
from diffusion_gym.rewards import RewardFunction, RewardResult
from diffusion_gym.rewards.base import Metadata
from diffusion_gym.rewards.isolation import score_and_tell


@dataclass(frozen=True, eq=False)
class Unscored:
    """What the rewards of N episodes, which ended in one step, are to be computed of.

    Attributes:
        rows: Their rows, ``[N]`` int64 on the environment's device.
        reward_function: What scores them.
        images: Decoded images, ``[N, 3, H, W]`` in [0, 1].
        prompts: N prompts.
        metadata: What is known of each prompt besides.
    """

    rows: Tensor
    reward_function: RewardFunction
    images: Tensor
    prompts: list[str]
    metadata: Metadata | None

    def score_and_tell(self) -> tuple[RewardResult, list[str]]:
        """Scores them, in any thread: what `diffusion_gym.rewards.score` returns and warns of."""
        return score_and_tell(self.reward_function, self.images, self.prompts, self.metadata)

    def write(self, infos: Infos, result: RewardResult) -> None:
        """Fills in what the infos of the step that ended the episodes left open, in place."""
        told = {
            "return": result.values,
            "reward_valid": result.valid,
            "reward_terms": result.terms,
        }
        ended = infos.get("final_info", infos)
        laid_out = scatter(told, self.rows, len(ended["_image"]))
        ended.update(laid_out if isinstance(ended["image"], Tensor) else to_numpy(laid_out))
