"""Several rewards as one."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards.base import RewardFunction, RewardResult, as_result


class CompositeReward:
    """The weighted sum of rewards.

    Its terms are each part's value, under the part's name, and each part's own terms, under
    ``part/term``. An image counts as scored where every part scored it.

    Args:
        parts: The rewards by name.
        weights: The weight of each part.

    Raises:
        InvalidInputError: There are no parts, or a weight is not a finite number.
    """

    def __init__(self, parts: Mapping[str, RewardFunction], weights: Mapping[str, float]) -> None:
        if not parts:
            raise InvalidInputError("a composite reward needs at least one name, got none")
        for name, weight in weights.items():
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise InvalidInputError(
                    f"the weight of reward {name!r} must be a finite number, got {weight!r}"
                )
        self._parts = {name: (float(weights[name]), part) for name, part in parts.items()}
        self.name = " + ".join(f"{weight:g} {name}" for name, (weight, _) in self._parts.items())
        self.version = " + ".join(
            f"{name}@{part.version}" for name, (_, part) in self._parts.items()
        )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1] with every part."""
        values = torch.zeros(len(images))
        valid = torch.ones(len(images), dtype=torch.bool)
        terms: dict[str, Tensor] = {}
        for name, (weight, part) in self._parts.items():
            result = as_result(part(images, prompts), len(images), name)
            values += weight * result.values.cpu()
            valid &= result.valid.cpu()
            terms[name] = result.values
            terms.update({f"{name}/{term}": column for term, column in result.terms.items()})
        return RewardResult(values, valid, terms)

    def __repr__(self) -> str:
        return f"CompositeReward({self.name!r})"
