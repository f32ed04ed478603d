"""A snapshot of running episodes, for branching and for checkpoints."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from diffusion_gym.checks import whole_numbers
from diffusion_gym.errors import InvalidInputError, shown


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingState:
    """Everything that determines how a batch of B episodes continues, given the actions.

    Attributes:
        latents: x_i of every row, ``[B, C, h, w]`` float32.
        step_index: Steps done in every row, ``[B]`` int64, 0 … T; T marks an ended episode.
        prompt_ids: Prompt of every row, ``[B]`` int64.
        prompts: Text of every row's prompt; it makes a state portable between environments. Its
            negative prompt is that of the environment.
        model: Name of the model whose latents these are.
        num_steps: T of the environment.
        rng: State of every row's random generator, or None in a selection of rows.
    """

    latents: Tensor
    step_index: npt.NDArray[np.int64]
    prompt_ids: npt.NDArray[np.int64]
    prompts: tuple[str, ...]
    model: str
    num_steps: int
    rng: tuple[dict[str, Any], ...] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.step_index)

    def __repr__(self) -> str:
        return (
            f"DenoisingState(rows={len(self)}, step_index={self.step_index.tolist()}, "
            f"prompt_ids={self.prompt_ids.tolist()}, model={self.model!r})"
        )

    def select(self, indices: Sequence[int] | npt.NDArray[Any] | Tensor) -> "DenoisingState":
        """Copies rows, in the order given and as often as named, without the generators.

        Without them the copies' *following* episodes differ: each row of the environment that
        takes a copy goes on with the generator it has.

        Args:
            indices: Rows to copy, ``[N]`` integers; negative ones count from the end.

        Returns:
            A state of N rows with ``rng=None``.

        Raises:
            InvalidInputError: They are no integers, or beyond the rows that there are.
        """
        rows = whole_numbers("rows to select", indices)
        if (rows < -len(self)).any() or (rows >= len(self)).any():
            raise InvalidInputError(
                f"expected rows to select, from 0 to {len(self) - 1}, got {shown(rows.tolist())}"
            )
        rows = rows.astype(np.int64)
        return dataclasses.replace(
            self,
            latents=self.latents[rows],
            step_index=self.step_index[rows],
            prompt_ids=self.prompt_ids[rows],
            prompts=tuple(self.prompts[row] for row in rows),
            rng=None,
        )
