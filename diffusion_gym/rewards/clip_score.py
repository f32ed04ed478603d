"""How well does a picture fit its prompt, as a CLIP model sees it?"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from diffusion_gym.rewards.base import RewardResult
from diffusion_gym.rewards.networks.weights import check_batch_size


class EmbeddingModel(Protocol):
    """Two networks, one of pictures and one of texts, whose embeddings can be compared."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeds images [B, 3, H, W] in [0, 1] as float32 directions [B, D]."""
        ...

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeds N prompts as float32 directions [N, D]."""
        ...


class ClipScore:
    """Cosine similarity of the embeddings of picture and prompt, times a factor.

    Args:
        model: The CLIP model.
        name: The reward's name.
        version: The reward's version.
        scale: The factor.
        batch_size: How many images or prompts a network gets at once.

    Raises:
        InvalidInputError: The batch size is not a positive whole number.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        *,
        name: str = "clip_score",
        version: str = "1",
        scale: float = 1.0,
        batch_size: int = 64,
    ) -> None:
        self.name = name
        self.version = version
        self.scale = scale
        self._model = model
        self._batch_size = check_batch_size(batch_size)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1]."""
        # Rollouts repeat their prompts; each different one is embedded once.
        different = list(dict.fromkeys(prompts))
        size = self._batch_size
        texts = [
            self._model.embed_prompts(different[start : start + size])
            for start in range(0, len(different), size)
        ]
        pictures = [self._model.embed_images(part) for part in torch.split(images, size)]
        text = torch.cat(texts)[[different.index(prompt) for prompt in prompts]]
        return RewardResult.from_values(self.scale * (torch.cat(pictures) * text).sum(dim=1))

    def __repr__(self) -> str:
        return f"ClipScore(name={self.name!r}, version={self.version!r})"
