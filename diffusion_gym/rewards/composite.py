"""Several rewards as one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffusion_gym.checks import checked
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards.base import (
    Metadata,
    RewardFunction,
    RewardResult,
    as_result,
    call,
    check_prompts,
    wants_metadata,
)


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
            raise InvalidInputError("expected a composite reward of at least one name, got none")
        if parts.keys() != weights.keys():
            raise InvalidInputError(
                f"expected one weight for each of the rewards {', '.join(map(repr, parts))}, "
                f"got weights for {', '.join(map(repr, weights))}"
            )
        self._parts = {
            name: (checked(f"the weight of reward {name!r}", weights[name], float), part)
            for name, part in parts.items()
        }
        self.name = " + ".join(f"{weight:g} {name}" for name, (weight, _) in self._parts.items())
        self.version = " + ".join(
            f"{name}@{part.version}" if part.name == name else f"{name}={part.name}@{part.version}"
            for name, (_, part) in self._parts.items()
        )

    @property
    def wants_metadata(self) -> bool:
        """Whether a part asks for it."""
        return any(wants_metadata(part) for _, part in self._parts.values())

    def __call__(
        self, images: Tensor, prompts: Sequence[str], metadata: Metadata | None = None
    ) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1] with every part.

        Every part gets images of its own, so that one that changes them in place spoils neither
        the next part's scores nor the caller's images.

        Raises:
            InvalidInputError: Two parts' terms have the same name.
        """
        values = torch.zeros(len(images))
        valid = torch.ones(len(images), dtype=torch.bool)
        terms: dict[str, Tensor] = {}
        for name, (weight, part) in self._parts.items():
            output = call(part, images.clone(), list(prompts), metadata)
            result = as_result(output, len(images), name)
            values += weight * result.values.cpu()
            valid &= result.valid.cpu()
            own = {f"{name}/{term}": column for term, column in result.terms.items()}
            twice = terms.keys() & (own.keys() | {name})
            if twice:
                raise InvalidInputError(
                    f"expected the terms of {self.name} to have different names, got twice: "
                    f"{', '.join(sorted(twice))}"
                )
            terms |= {name: result.values, **own}
        return RewardResult(values, valid, terms)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Asks every part.

        Raises:
            InvalidInputError: A part cannot read one of the prompts.
        """
        for _, part in self._parts.values():
            check_prompts(part, prompts)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part, by its name."""
        return {name: weight for name, (weight, _) in self._parts.items()}

    def __repr__(self) -> str:
        return f"CompositeReward({self.name!r})"
