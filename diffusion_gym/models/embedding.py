"""What a text encoder makes of prompts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PromptEmbedding(NamedTuple):
    """What the text encoders make of a batch of prompts.

    Attributes:
        tokens: Hidden states, ``[B, L, D]`` float32.
        pooled: Pooled embedding, ``[B, P]`` float32, for models that have one.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    @classmethod
    def observed(cls, observation: Mapping[str, Tensor]) -> "PromptEmbedding":
        """The embeddings in a batch of the environment's observations."""
        return cls(observation["prompt_embedding"], observation.get("pooled_prompt_embedding"))

    @classmethod
    def cat(cls, embeddings: Sequence["PromptEmbedding"]) -> "PromptEmbedding":
        """The rows of several batches of the same model, one batch after the other."""
        pooled = [part.pooled for part in embeddings if part.pooled is not None]
        return cls(
            torch.cat([part.tokens for part in embeddings]), torch.cat(pooled) if pooled else None
        )

    def select(self, rows: Tensor) -> "PromptEmbedding":
        """The embeddings of the given rows, in their order."""
        return PromptEmbedding(
            self.tokens[rows], None if self.pooled is None else self.pooled[rows]
        )

    def to(self, device: torch.device) -> "PromptEmbedding":
        """The same on another device."""
        return PromptEmbedding(
            self.tokens.to(device), None if self.pooled is None else self.pooled.to(device)
        )

    def expand(self, rows: int) -> "PromptEmbedding":
        """One embedding, ``[1, …]``, as that of every row of a batch; nothing is copied."""
        return PromptEmbedding(
            self.tokens.expand(rows, -1, -1),
            None if self.pooled is None else self.pooled.expand(rows, -1),
        )
