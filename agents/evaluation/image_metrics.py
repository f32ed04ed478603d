"""What is measured of an evaluation's images besides the reward: signs of over-optimisation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.evaluation.diversity import embedding_diversity, structural_diversity
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import RewardFunction, score

Array = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]

BATCH = 64
"""Images held as floats at once."""


@dataclass(frozen=True)
class ImageMetrics:
    """Scores and compares images that have been drawn already.

    Attributes:
        rewards: Other rewards than the environment's.
        embed_images: From images ``[B, 3, H, W]`` in [0, 1] to embeddings ``[B, D]``.
    """

    rewards: Sequence[RewardFunction]
    embed_images: Callable[[Tensor], Tensor]

    def scores(
        self,
        images: Images,
        prompts: Sequence[str],
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> tuple[dict[str, Array], dict[str, str]]:
        """Scores images with every reward.

        The images are those that would be seen in a file, of 8 bits per channel: what a reward
        gives may differ in the third digit from what it gives to the decoder's floats.

        Args:
            images: ``[P, S, H, W, 3]``.
            prompts: P prompts.
            metadata: What is known of a prompt besides, by its text.

        Returns:
            By name, ``[P, S]`` with NaN where the reward could not be computed; and, for a reward
            that cannot read one of the prompts, why.
        """
        texts = [text for text in prompts for _ in range(images.shape[1])]
        values: dict[str, Array] = {}
        unreadable: dict[str, str] = {}
        for reward in self.rewards:
            try:
                values[reward.name] = _score(reward, images, texts, metadata or {})
            except InvalidInputError as error:
                unreadable[reward.name] = str(error)
        return values, unreadable

    def diversity(self, images: Images) -> dict[str, Array]:
        """Diversity among each prompt's images ``[P, S, H, W, 3]``, ``[P]`` each; none if S = 1."""
        count, samples = images.shape[:2]
        if samples < 2:
            return {}
        parts = [self.embed_images(batch).cpu() for _, batch in _batches(images)]
        embeddings = torch.cat(parts).double().numpy().reshape(count, samples, -1)
        return {
            "diversity/clip": embedding_diversity(embeddings),
            "diversity/structure": structural_diversity(images),
        }


def _score(
    reward: RewardFunction,
    images: Images,
    texts: list[str],
    metadata: Mapping[str, Mapping[str, Any]],
) -> Array:
    parts = []
    for start, batch in _batches(images):
        own = texts[start : start + len(batch)]
        result = score(reward, batch, own, [metadata.get(text, {}) for text in own])
        parts.append(result.values.double().masked_fill(~result.valid, torch.nan))
    scores: Array = torch.cat(parts).numpy().reshape(images.shape[:2])
    return scores


def _batches(images: Images) -> Iterator[tuple[int, Tensor]]:
    """Images ``[P, S, H, W, 3]`` as floats ``[B, 3, H, W]`` in [0, 1], each after its start."""
    flat = images.reshape(-1, *images.shape[2:])
    for start in range(0, len(flat), BATCH):
        batch = torch.from_numpy(flat[start : start + BATCH])
        yield start, batch.permute(0, 3, 1, 2).float() / 255
