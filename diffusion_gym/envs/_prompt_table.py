"""Prompts by number: their texts and, encoded at most once each, their embeddings."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import DiffusionModel, PromptEmbedding

PromptIds = npt.NDArray[np.int64]

#: Memory of the embeddings kept at a time. One takes 0.24 MB in Stable Diffusion 1.5, 0.6 MB in
#: XL and 5.5 MB in 3.
CACHE_BYTES = 2**29


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
        length, width = model.prompt_embedding_shape
        self._cache_size = max(1, CACHE_BYTES // (4 * length * width))
        self._cache: dict[int, PromptEmbedding] = {}
        self._complete: list[PromptEmbedding] | None = None  # all there will ever be

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
            if self._complete is not None:
                raise InvalidInputError(
                    "expected one of the environment's own prompts, as its text encoders were "
                    f"freed (free_text_encoders), got {text!r}"
                )
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
        """Embeddings of prompts, of N rows, from the cache where they are in it.

        Every prompt is encoded alone: in a batch, rounding would depend on its neighbours, and a
        resumed run, whose cache is empty, would see other numbers than an uninterrupted one.
        """
        numbers = prompt_ids.tolist()
        if self._complete is not None:
            chosen = PromptEmbedding.cat([self._complete[number] for number in numbers])
            return chosen.to(self._model.device)
        parts = [self._encoded(number) for number in numbers]
        while len(self._cache) > self._cache_size:
            del self._cache[next(iter(self._cache))]
        return PromptEmbedding.cat(parts)

    def encode_all(self) -> None:
        """Encodes all prompts for good, in the host's memory; from now on no others are known."""
        host = torch.device("cpu")
        self._complete = [self._model.encode([text]).to(host) for text in self._texts]

    def _encoded(self, prompt_id: int) -> PromptEmbedding:
        """The embedding of one prompt, ``[1, L, D]``; the last used is the last in the cache."""
        embedding = self._cache.pop(prompt_id, None)
        if embedding is None:
            embedding = self._model.encode([self._texts[prompt_id]])
        self._cache[prompt_id] = embedding
        return embedding
