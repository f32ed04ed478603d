"""What a round leaves of its episodes, whatever the agent keeps of them besides."""

from dataclasses import dataclass, field, fields
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from diffusion_gym.rewards import RewardResult

NAMED = ("extras", "reward_terms")
"""The fields that hold columns by name, of which a batch may lack some."""


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
        reward_terms: What the reward is made of, by name, likewise.
    """

    prompt_ids: Tensor
    returns: Tensor
    valid: Tensor
    advantages: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    reward_terms: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.returns)

    def take_scores(self, result: RewardResult) -> None:
        """Fills in what is known of the B images once they are scored."""
        self.returns = result.values
        self.valid = result.valid
        self.reward_terms = dict(result.terms)

    @classmethod
    def joined(cls, batches: list[Self]) -> Self:
        """Several batches as one; an extra or a term that a batch lacks is NaN there."""
        names = [f.name for f in fields(cls) if f.name not in NAMED]
        columns: dict[str, Any] = {
            name: torch.cat([getattr(batch, name) for batch in batches]) for name in names
        }
        unknown = [torch.full_like(batch.returns, torch.nan) for batch in batches]
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in NAMED}
        for group, joined in groups.items():
            own = [getattr(batch, group) for batch in batches]
            for name in dict.fromkeys(name for each in own for name in each):
                parts = [each.get(name, nan) for each, nan in zip(own, unknown, strict=True)]
                joined[name] = torch.cat(parts)
        return cls(**(columns | groups))


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
