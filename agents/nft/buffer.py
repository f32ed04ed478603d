"""One round of final latents: all that learning on the forward process needs of an episode."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.common.episodes import Episodes, RoundBuffer


@dataclass(kw_only=True)
class FinalImages(Episodes):
    """B images, as latents. Of T steps nothing else is kept: a T-th of what PPO stores.

    Attributes:
        latents: x_T, ``[B, C, h, w]`` float32.
    """

    latents: Tensor


class ImageBuffer(RoundBuffer[FinalImages]):
    """Collects final latents batch by batch and pairs them with noise levels."""

    @property
    def images(self) -> FinalImages:
        """Everything that was added, as one batch."""
        return self.episodes

    def pairs(self, choices: int, per_image: int, generator: torch.Generator) -> Tensor:
        """Every scored image with some of the noise levels, shuffled, as indices ``[M]``.

        Args:
            choices: Noise levels to choose from, C; pair ``p`` is image ``p // C`` at level
                ``p % C``.
            per_image: Different ones for each image.
            generator: Source of the choice and of the order, on the CPU.
        """
        rows = self.images.valid.cpu().nonzero()
        chosen = torch.rand(len(rows), choices, generator=generator).argsort(1)[:, :per_image]
        pairs = (rows * choices + chosen).flatten()
        order = torch.randperm(len(pairs), generator=generator)
        return pairs[order].to(self.images.latents.device)
