"""What a text encoder makes of prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PROMPT, NEGATIVE = "prompt_embedding", "negative_prompt_embedding"
"""What observations call the hidden states; the pooled ones are called so after "pooled_"."""


class PromptEmbedding(NamedTuple):
    """What the text encoders make of a batch of prompts.

    Attributes:
        tokens: Hidden states, ``[B, L, D]`` float32.
        pooled: Pooled embedding, ``[B, P]`` float32, for models that have one.
        negative: What guidance leads away from in each row, where prompts have negative prompts
            of their own; None: from the model's null embedding in all of them.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    negative: "PromptEmbedding | None" = None

    @classmethod
    def observed(cls, observation: Mapping[str, Tensor]) -> "PromptEmbedding":
        """The embeddings in a batch of the environment's observations."""
        positive, negative = (
            cls(observation[tokens], observation.get(f"pooled_{tokens}"))
            if tokens in observation
            else None
            for tokens in (PROMPT, NEGATIVE)
        )
        assert positive is not None
        return positive._replace(negative=negative)

    def as_observed(self) -> dict[str, Tensor]:
        """The embeddings as the environment's observations have them."""
        observation = {PROMPT: self.tokens}
        if self.pooled is not None:
            observation[f"pooled_{PROMPT}"] = self.pooled
        if self.negative is not None:
            other = self.negative.as_observed()
            observation |= {name.replace(PROMPT, NEGATIVE): part for name, part in other.items()}
        return observation

    @classmethod
    def cat(cls, embeddings: Sequence["PromptEmbedding"]) -> "PromptEmbedding":
        """The rows of several batches of the same model, one batch after the other.

        What they lead away from is kept where all of them have it.
        """
        pooled = [part.pooled for part in embeddings if part.pooled is not None]
        negative = [part.negative for part in embeddings if part.negative is not None]
        return cls(
            torch.cat([part.tokens for part in embeddings]),
            torch.cat(pooled) if pooled else None,
            cls.cat(negative) if len(negative) == len(embeddings) else None,
        )

    def select(self, rows: Tensor) -> "PromptEmbedding":
        """The embeddings of the given rows, in their order."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> "PromptEmbedding":
        """The same on another device."""
        return self._each(lambda part: part.to(device))

    def expand(self, rows: int) -> "PromptEmbedding":
        """One embedding, ``[1, …]``, as that of every row of a batch; nothing is copied."""
        return self._each(lambda part: part.expand(rows, *part.shape[1:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PromptEmbedding":
        return PromptEmbedding(
            change(self.tokens),
            None if self.pooled is None else change(self.pooled),
            None if self.negative is None else self.negative._each(change),
        )
