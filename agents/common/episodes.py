"""What a round leaves of its episodes, whatever the agent keeps of them besides."""

from dataclasses import dataclass, field, fields
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Episodes:
    """B complete episodes.

    Attributes:
        prompt_ids: ``[B]``; embeddings are looked up again, they would fill the memory.
        returns: Return of each episode, ``[B]``.
        valid: False where the reward could not be computed, ``[B]``.
        advantages: Advantage of each episode, ``[B]``; NaN until it is known.
        extras: What wrappers measured of each episode, for the log, by name, ``[B]`` float32; NaN
            where it was not measured.
    """

    prompt_ids: Tensor
    returns: Tensor
    valid: Tensor
    advantages: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.returns)

    @classmethod
    def joined(cls, batches: list[Self]) -> Self:
        """Several batches as one; an extra that a batch lacks is NaN there."""
        names = [f.name for f in fields(cls) if f.name != "extras"]
        columns = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
        extras = {}
        for name in dict.fromkeys(name for batch in batches for name in batch.extras):
            unknown = [torch.full_like(batch.returns, torch.nan) for batch in batches]
            parts = [b.extras.get(name, nan) for b, nan in zip(batches, unknown, strict=True)]
            extras[name] = torch.cat(parts)
        return cls(**columns, extras=extras)


EpisodesT = TypeVar("EpisodesT", bound=Episodes)


class RoundBuffer(Generic[EpisodesT]):
    """Collects a round's episodes batch by batch."""

    def __init__(self) -> None:
        self._batches: list[EpisodesT] = []

    def reset(self) -> None:
        """Forgets everything."""
        self._batches = []

    def add(self, batch: EpisodesT) -> None:
        """Adds a batch of complete episodes."""
        self._batches.append(batch)

    @property
    def episodes(self) -> EpisodesT:
        """Everything that was added, as one batch."""
        if len(self._batches) > 1:
            self._batches = [type(self._batches[0]).joined(self._batches)]
        return self._batches[0]
