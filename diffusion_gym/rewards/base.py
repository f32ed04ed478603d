"""What a reward is: a function of images and prompts that gives one number per image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError


@dataclass(frozen=True)
class RewardResult:
    """The rewards of a batch of images.

    Attributes:
        values: Float32 rewards [B], larger is better.
        valid: Bool [B]; False where the image could not be scored.
        terms: What the values are made of, for logs; float32 [B] each, NaN where a term does not
            apply to an image.
    """

    values: Tensor
    valid: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: Tensor, terms: dict[str, Tensor] | None = None) -> Self:
        """Builds a result in which an image counts as scored where its value is finite.

        Args:
            values: Rewards [B].
            terms: As the attribute.
        """
        return cls(values, values.isfinite(), terms or {})


@runtime_checkable
class RewardFunction(Protocol):
    """Anything that scores images for prompts, and says what it is.

    Attributes:
        name: For logs and files.
        version: Changes whenever the same image and prompt would get another value.
    """

    name: str
    version: str

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images.

        Args:
            images: Float images [B, 3, H, W] in [0, 1].
            prompts: B prompts, one per image.
        """
        ...


PlainReward = Callable[[Tensor, Sequence[str]], Tensor | RewardResult]
"""A function of images [B, 3, H, W] and B prompts that returns rewards [B]."""


def as_result(output: object, count: int, name: str) -> RewardResult:
    """Brings what a reward returned into one form, and checks its shapes.

    Args:
        output: A tensor [B], or a result.
        count: B, the number of images.
        name: The reward's name, for messages.

    Returns:
        The result, detached and with float32 numbers.

    Raises:
        InvalidInputError: It is neither, or a shape is not [B].
    """
    if isinstance(output, Tensor):
        output = RewardResult.from_values(output)
    if not isinstance(output, RewardResult):
        raise InvalidInputError(
            f"reward {name!r} must return a tensor [{count}] or a RewardResult, "
            f"got {type(output).__name__}"
        )
    for what, tensor in {"values": output.values, "valid": output.valid, **output.terms}.items():
        if tensor.shape != (count,):
            raise InvalidInputError(
                f"reward {name!r} must return {what} of shape [{count}], one number per image, "
                f"got {list(tensor.shape)}"
            )
    return RewardResult(
        output.values.detach().float(),
        output.valid.detach().bool(),
        {term: tensor.detach().float() for term, tensor in output.terms.items()},
    )


class FunctionReward:
    """A plain function as a reward.

    Args:
        name: The name it gets.
        version: The version it gets.
        function: Called with images and prompts; returns rewards [B].
    """

    def __init__(self, name: str, version: str, function: PlainReward) -> None:
        self.name = name
        self.version = version
        self._function = function

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Calls the function."""
        return as_result(self._function(images, prompts), len(images), self.name)

    def __repr__(self) -> str:
        return f"FunctionReward({self.name!r}, version={self.version!r})"
