"""How beautiful is a picture, as LAION's predictor sees it?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.rewards.base import RewardResult
from diffusion_gym.rewards.networks.clip import Clip
from diffusion_gym.rewards.networks.weights import check_batch_size


class Aesthetic:
    """A linear head on the direction of a picture's CLIP embedding; typically 1 to 10.

    With OpenAI's ViT-L/14 and the head ``sac+logos+ava1-l14-linearMSE`` of
    christophschuhmann/improved-aesthetic-predictor it is DDPO's aesthetic reward
    (arXiv 2305.13301).

    Args:
        clip: The CLIP model.
        head: Layers from embeddings [B, D] to numbers [B, 1], in float32.
        version: The reward's version.
        batch_size: How many images the network gets at once.

    Raises:
        InvalidInputError: The batch size is not a positive whole number.
        ModelLoadError: The head takes embeddings of another width than the model gives.
    """

    name = "aesthetic"

    def __init__(self, clip: Clip, head: nn.Module, version: str, batch_size: int = 64) -> None:
        width, wanted = clip.model.config.projection_dim, next(head.parameters()).shape[1]
        if width != wanted:
            raise ModelLoadError(
                f"aesthetic's head takes embeddings of width {wanted}, those of this CLIP model "
                f"have {width}"
            )
        self.version = version
        self._clip = clip
        self._head = head.to(clip.model.device)
        self._batch_size = check_batch_size(batch_size)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1]; the prompts do not matter."""
        parts = [self._clip.embed_images(part) for part in torch.split(images, self._batch_size)]
        return RewardResult.from_values(self._head(torch.cat(parts)).squeeze(1))

    def __repr__(self) -> str:
        return f"Aesthetic(version={self.version!r})"
