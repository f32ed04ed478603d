"""What would people think of this picture for this prompt, as ImageReward sees it?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_gym.rewards.base import RewardResult
from diffusion_gym.rewards.networks.image_reward import ImageRewardNetwork
from diffusion_gym.rewards.networks.preprocessing import Preprocessing
from diffusion_gym.rewards.networks.weights import check_batch_size

PROMPT_TOKENS = 35
"""All prompts are padded or cut to this length."""

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the network's numbers over its authors' data; with them rewards are around 0."""


class ImageReward:
    """ImageReward (arXiv 2304.05977): a number around 0, its deviation over pictures around 1.

    Args:
        network: The network.
        tokenizer: BERT's tokenizer.
        version: The reward's version.
        batch_size: How many images the network gets at once.

    Raises:
        InvalidInputError: The batch size is not a positive whole number.
    """

    name = "imagereward"

    def __init__(
        self, network: ImageRewardNetwork, tokenizer: Any, version: str, batch_size: int = 64
    ) -> None:
        self.version = version
        self._network = network
        self._tokenizer = tokenizer
        self._preprocessing = Preprocessing(network.image_size)
        self._batch_size = check_batch_size(batch_size)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1]."""
        device = self._network.device
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=PROMPT_TOKENS,
            return_tensors="pt",
        )
        parts = zip(
            torch.split(images, self._batch_size),
            torch.split(tokens.input_ids, self._batch_size),
            torch.split(tokens.attention_mask, self._batch_size),
            strict=True,
        )
        numbers = [
            self._network(
                self._preprocessing(part.to(device, torch.float32)), ids.to(device), mask.to(device)
            )
            for part, ids, mask in parts
        ]
        return RewardResult.from_values((torch.cat(numbers) - MEAN) / STD)

    def __repr__(self) -> str:
        return f"ImageReward(version={self.version!r})"
