"""Prompts by number: their texts and, encoded at most once each, their embeddings."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models.model import DiffusionModel, PromptEmbedding

PromptIds = npt.NDArray[np.int64]

#: Embeddings kept at a time; at Stable Diffusion's size they take 0.24 MB each.
CACHE_SIZE = 1024


class PromptTable:
    """Gives every prompt text a number and every number an embedding.

    The numbers 0 … n−1 are the texts given at the start; others are added as they are met.
    """

    def __init__(self, texts: Sequence[str], model: DiffusionModel) -> None:
        self._texts: list[str] = list(texts)
        self._ids: dict[str, int] = {}
        for number, text in enumerate(self._texts):
            self._ids.setdefault(text, number)
        self._model = model
        self._cache: dict[int, PromptEmbedding] = {}

    def __len__(self) -> int:
        """Number of prompts known."""
        return len(self._texts)

    def text(self, prompt_id: int) -> str:
        """The text of one prompt."""
        (valid,) = self.checked([prompt_id])
        return self._texts[int(valid)]

    def texts(self, prompt_ids: Iterable[int]) -> list[str]:
        """The texts of prompts whose ids are known to be valid."""
        return [self._texts[prompt_id] for prompt_id in prompt_ids]

    def ids(self, texts: Iterable[str]) -> PromptIds:
        """The numbers of texts; a text met for the first time gets a new one."""
        return np.array([self._id(text) for text in texts], dtype=np.int64)

    def _id(self, text: str) -> int:
        if not isinstance(text, str):
            raise InvalidInputError(f"expected prompts to be strings, got {text!r}")
        if text not in self._ids:
            self._ids[text] = len(self._texts)
            self._texts.append(text)
        return self._ids[text]

    def checked(self, prompt_ids: object) -> PromptIds:
        """Prompt ids as an array ``[N]``.

        Raises:
            InvalidInputError: If they are no whole numbers from 0 to the largest known one.
        """
        ids = np.asarray(prompt_ids.cpu() if isinstance(prompt_ids, Tensor) else prompt_ids)
        whole = np.issubdtype(ids.dtype, np.integer)
        if ids.ndim != 1 or not whole or (ids < 0).any() or (ids >= len(self)).any():
            raise InvalidInputError(
                f"expected prompt ids as integers from 0 to {len(self) - 1}, got {prompt_ids!r}"
            )
        return ids.astype(np.int64)

    def embedding(self, prompt_ids: PromptIds) -> PromptEmbedding:
        """Embeddings of prompts, ``[N, L, D]``, from the cache where they are in it.

        Every prompt is encoded alone: in a batch, rounding would depend on its neighbours, and a
        resumed run, whose cache is empty, would see other numbers than an uninterrupted one.
        """
        parts = [self._encoded(number) for number in prompt_ids.tolist()]
        while len(self._cache) > CACHE_SIZE:
            del self._cache[next(iter(self._cache))]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return PromptEmbedding(
            torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None
        )

    def _encoded(self, prompt_id: int) -> PromptEmbedding:
        """The embedding of one prompt, ``[1, L, D]``; the last used is the last in the cache."""
        embedding = self._cache.pop(prompt_id, None)
        if embedding is None:
            embedding = self._model.encode([self._texts[prompt_id]])
        self._cache[prompt_id] = embedding
        return embedding
