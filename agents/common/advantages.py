"""Advantages: how much better an image is than others of its prompt."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diffusion_gym.errors import InvalidInputError, unknown_name

EPSILON = 1e-6
FloatArray = npt.NDArray[np.float64]


class AdvantageEstimator(Protocol):
    """Compares the rewards of a round with those of the same prompt."""

    def update(self, prompt_ids: npt.ArrayLike, rewards: npt.ArrayLike) -> FloatArray:
        """Takes in a batch of rewards ``[B]`` and returns its advantages ``[B]``."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` left off."""


class PromptStatistics:
    """Running per-prompt mean and deviation (DDPO, arXiv 2305.13301; kvablack/ddpo-pytorch).

    ``A = (r - mean) / (std + 1e-6)`` over the last rewards of the prompt, the new ones included;
    while a prompt has fewer than ``min_count`` of them, over the whole batch instead.

    Args:
        buffer_size: Rewards remembered per prompt.
        min_count: Rewards a prompt needs for statistics of its own.

    Raises:
        InvalidInputError: The buffer can never hold that many.
    """

    def __init__(self, buffer_size: int = 32, min_count: int = 16) -> None:
        if not 1 <= min_count <= buffer_size:
            raise InvalidInputError(
                "expected a buffer of per-prompt rewards that holds min_count of them, 1 or more, "
                f"got min_count={min_count} and buffer_size={buffer_size}"
            )
        self.buffer_size = buffer_size
        self.min_count = min_count
        self.rewards: dict[int, deque[float]] = {}

    def update(self, prompt_ids: npt.ArrayLike, rewards: npt.ArrayLike) -> FloatArray:
        """Remembers a batch of rewards and returns its advantages.

        Args:
            prompt_ids: Prompt of every image, ``[B]``.
            rewards: Rewards, ``[B]``; every one must be valid.

        Returns:
            Advantages, ``[B]``.
        """
        ids, values = np.asarray(prompt_ids), np.asarray(rewards, dtype=np.float64)
        advantages = np.empty_like(values)
        for prompt in np.unique(ids):
            rows = ids == prompt
            history = self.rewards.setdefault(int(prompt), deque(maxlen=self.buffer_size))
            history.extend(values[rows].tolist())
            sample = np.array(history) if len(history) >= self.min_count else values
            advantages[rows] = (values[rows] - sample.mean()) / (sample.std() + EPSILON)
        return advantages

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"rewards": {prompt: list(values) for prompt, values in self.rewards.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` left off."""
        self.rewards = {
            prompt: deque(values, maxlen=self.buffer_size)
            for prompt, values in state["rewards"].items()
        }


class GroupStatistics:
    """Mean and deviation over the images of one prompt in one batch (Flow-GRPO, 2505.05470).

    ``A = (r - group mean) / (group std + 1e-6)``. It remembers nothing between batches.
    """

    def update(self, prompt_ids: npt.ArrayLike, rewards: npt.ArrayLike) -> FloatArray:
        """Returns the advantages ``[B]`` of a batch; a group of one has advantage 0."""
        ids, values = np.asarray(prompt_ids), np.asarray(rewards, dtype=np.float64)
        advantages = np.empty_like(values)
        for prompt in np.unique(ids):
            rows = ids == prompt
            group = values[rows]
            advantages[rows] = (group - group.mean()) / (group.std() + EPSILON)
        return advantages

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class DecoupledAdvantages:
    """Several rewards, each normalised by itself before they are added (GDPO, arXiv 2601.05242).

    ``A = (S - mean) / (std + 1e-6)`` over the whole batch, of ``S = Σ_k w_k A_k``, where ``A_k`` is
    the advantage that an estimator gives for the k-th reward alone: GDPO's with
    `GroupStatistics`. No reward's scale counts but by its weight.

    Args:
        weights: w_k by the names of the rewards.
        make: Makes the estimator of each.
    """

    def __init__(
        self, weights: Mapping[str, float], make: Callable[[], AdvantageEstimator]
    ) -> None:
        self.weights = dict(weights)
        self.estimators = {name: make() for name in weights}

    def update(self, prompt_ids: npt.ArrayLike, rewards: Mapping[str, npt.ArrayLike]) -> FloatArray:
        """Takes in a batch of every reward, ``[B]`` each, and returns its advantages ``[B]``.

        Raises:
            InvalidInputError: One of the rewards is missing.
        """
        if missing := [name for name in self.weights if name not in rewards]:
            raise InvalidInputError(
                f"expected every reward of the sum among the episodes' reward_terms, got none for "
                f"{', '.join(missing)}"
            )
        total = np.zeros(np.shape(prompt_ids))
        for name, weight in self.weights.items():
            total += weight * self.estimators[name].update(prompt_ids, rewards[name])
        if not len(total):
            return total
        normalised: FloatArray = (total - total.mean()) / (total.std() + EPSILON)
        return normalised

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {name: each.state_dict() for name, each in self.estimators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` left off."""
        for name, each in self.estimators.items():
            each.load_state_dict(state[name])


def make_estimator(baseline: str, *, buffer_size: int, min_count: int) -> AdvantageEstimator:
    """An advantage estimator by name.

    Args:
        baseline: ``"group"`` (`GroupStatistics`) or ``"prompt"`` (`PromptStatistics`).
        buffer_size: Rewards remembered per prompt; "group" remembers none.
        min_count: Rewards that a prompt needs for statistics of its own; likewise.

    Raises:
        InvalidInputError: The name is unknown, or the buffer cannot hold ``min_count`` rewards.
    """
    if baseline == "group":
        return GroupStatistics()
    if baseline == "prompt":
        return PromptStatistics(buffer_size, min_count)
    raise unknown_name("advantage", baseline, ("group", "prompt"))
