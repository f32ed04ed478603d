"""What a reward is: a function of images and prompts that gives one number per image."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError, shown


@dataclass(frozen=True)
class RewardResult:
    """The rewards of a batch of images.

    Attributes:
        values: Float32 rewards [B], larger is better.
        valid: Bool [B]; False where the image could not be scored.
        terms: What the values are made of, for logs; float32 [B] each, NaN where a term does not
            apply to an image. Names are texts that are not empty and do not begin with "_".
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
        values = torch.as_tensor(values)
        return cls(values, values.isfinite(), terms or {})


@runtime_checkable
class RewardFunction(Protocol):
    """Anything that scores images for prompts, and says what it is.

    A reward that does not understand every text may also have a method ``check_prompts(prompts)``
    that raises an InvalidInputError for what it cannot read. Environments call it with all their
    prompts when they are made, and with other prompts when a reset brings them, so that such a
    prompt is refused before any work is done.

    A reward that has a parameter ``metadata`` gets, by that name, what the prompt file says of each
    of the B prompts besides: a list of B dictionaries, empty where it says nothing. See
    `wants_metadata`.

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


PlainReward = Callable[..., Tensor | RewardResult]
"""A function of images [B, 3, H, W] and B prompts that returns rewards [B]; it may have a parameter
``metadata``, see `wants_metadata`."""

Metadata = Sequence[Mapping[str, Any]]
"""What is known of each of B prompts besides its text: the other columns of its file."""


def wants_metadata(reward: object) -> bool:
    """Whether a reward asks for the prompts' metadata.

    It does by a parameter of that name; or, where others decide, by an attribute
    ``wants_metadata``.
    """
    declared = getattr(reward, "wants_metadata", None)
    if isinstance(declared, bool):
        return declared
    try:
        return "metadata" in inspect.signature(reward).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def call(
    reward: Callable[..., Any],
    images: Tensor,
    prompts: Sequence[str],
    metadata: Metadata | None = None,
) -> Any:
    """What a reward returns; it gets the metadata of the B prompts if it asks for it.

    Args:
        reward: The reward.
        images: Images [B, 3, H, W].
        prompts: B prompts.
        metadata: B dictionaries, of which each reward gets copies; None: there is none.
    """
    if not wants_metadata(reward):
        return reward(images, prompts)
    own = [dict(one) for one in metadata or [{}] * len(prompts)]
    return reward(images, prompts, metadata=own)


def check_prompts(reward: object, prompts: Sequence[str]) -> None:
    """Lets a reward refuse prompts that it cannot read; see `RewardFunction`.

    Raises:
        InvalidInputError: The reward cannot read one of the prompts.
    """
    check = getattr(reward, "check_prompts", None)
    if check is None:
        return
    try:
        check(prompts)
    except InvalidInputError as error:
        name = getattr(reward, "name", type(reward).__name__)
        raise InvalidInputError(f"reward {name!r} cannot read a prompt: {error}") from error


def as_result(output: object, count: int, name: str) -> RewardResult:
    """Brings what a reward returned into one form, and checks it.

    Args:
        output: A result, or rewards [B]: a tensor, an array, or a list of numbers.
        count: B, the number of images.
        name: The reward's name, for messages.

    Returns:
        The result, detached and with float32 numbers.

    Raises:
        InvalidInputError: It is neither, or something in it is not of shape [B] or no numbers, or
            a term has no proper name.
    """
    if isinstance(output, Tensor | np.ndarray | list | tuple):
        values = _column("values", output, count, name)
        return RewardResult.from_values(values.float())
    if not isinstance(output, RewardResult):
        raise InvalidInputError(
            f"reward {name!r} must return a tensor [{count}] or a RewardResult, "
            f"got {type(output).__name__}"
        )
    if not isinstance(output.terms, Mapping):
        raise InvalidInputError(
            f"reward {name!r} must return terms as a mapping from names to numbers [{count}], "
            f"got {type(output.terms).__name__}"
        )
    for term in output.terms:
        check_name(f"the terms of reward {name!r}", term)
    return RewardResult(
        _column("values", output.values, count, name).float(),
        _column("valid", output.valid, count, name).bool(),
        {term: _column(term, terms, count, name).float() for term, terms in output.terms.items()},
    )


def check_name(what: str, name: object) -> None:
    """Checks a name under which numbers stand in an environment's infos.

    Raises:
        InvalidInputError: It is no text, or empty, or not to be printed in a line, or begins with
            "_", as the infos' masks do.
    """
    text = isinstance(name, str) and name and name.isprintable()
    if not text or str(name).startswith("_"):
        raise InvalidInputError(
            f"{what} must have texts as names, not empty, printable and not beginning with '_', "
            f"got {shown(name)}"
        )


def _column(what: str, numbers: Any, count: int, name: str) -> Tensor:
    """One number per image [B], detached."""
    if not isinstance(numbers, Tensor):
        try:
            array = np.asarray(numbers)
        except (TypeError, ValueError, RuntimeError):  # of different lengths, or not to be read
            array = np.array(None)
        if array.dtype.kind not in "biuf":
            raise InvalidInputError(
                f"reward {name!r} must return {what} of shape [{count}], one number per image, "
                f"got {_shortened(numbers)}"
            )
        numbers = torch.from_numpy(array.astype(bool if array.dtype.kind == "b" else float))
    column: Tensor = numbers.detach()
    if column.shape != (count,) or column.is_complex():
        kind = f"{column.dtype} of shape " if column.is_complex() else ""
        raise InvalidInputError(
            f"reward {name!r} must return {what} of shape [{count}], one number per image, "
            f"got {kind}{list(column.shape)}"
        )
    return column


def _shortened(value: object) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 100 else f"{text[:100]}…"


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

    @property
    def wants_metadata(self) -> bool:
        """Whether the function asks for it."""
        return wants_metadata(self._function)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, prompts: Sequence[str], metadata: Metadata | None = None
    ) -> RewardResult:
        """Calls the function."""
        output = call(self._function, images, prompts, metadata)
        return as_result(output, len(images), self.name)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Asks the function, where it can tell."""
        check = getattr(self._function, "check_prompts", None)
        if check is not None:
            check(prompts)

    def __repr__(self) -> str:
        return f"FunctionReward({self.name!r}, version={self.version!r})"
