"""The running episodes of a batch: latents, step indices, prompts and generators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from torch import Tensor

from diffusion_gym.envs._prompt_table import PromptIds
from diffusion_gym.errors import InvalidInputError, shown

Rows = npt.NDArray[np.int64]


class EpisodeBatch:
    """B episodes of T steps, each at a step of its own.

    Every row has its own NumPy generator, from which its prompts and its initial noise are drawn,
    so that a row's episodes do not depend on the batch it sits in.

    Step indices and prompt ids are kept where Python can read them without waiting for the device.

    Args:
        num_envs: B.
        num_steps: T.
        num_prompts: Episodes draw their prompts from the ids 0 … num_prompts − 1.
        latent_shape: ``(C, h, w)``.
        device: Where latents live.
    """

    def __init__(
        self,
        num_envs: int,
        num_steps: int,
        num_prompts: int,
        latent_shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        self.num_envs = num_envs
        self.num_steps = num_steps
        self.step_index: Rows = np.zeros(num_envs, dtype=np.int64)
        self.prompt_ids: PromptIds = np.zeros(num_envs, dtype=np.int64)
        self.generators: list[np.random.Generator] = []
        self.seeds: list[int] = []
        self._latents: Tensor | None = None
        self._num_prompts = num_prompts
        self._latent_shape = latent_shape
        self._device = device

    @property
    def started(self) -> bool:
        """Whether there are episodes at all."""
        return self._latents is not None

    @property
    def latents(self) -> Tensor:
        """x_i of every row, ``[B, C, h, w]`` float32; never changed in place.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self._latents is None:
            raise ResetNeeded("expected reset() before anything else, got no reset yet")
        return self._latents

    @property
    def ended(self) -> Rows:
        """The rows whose episode has ended."""
        return np.flatnonzero(self.step_index == self.num_steps)

    def require_running(self, *, autoreset: bool = False) -> None:
        """Raises ResetNeeded unless every row has steps left, or is reset by the next step."""
        if not self.started:
            raise ResetNeeded("expected reset() before step(), got no reset yet")
        ended = self.ended
        if autoreset or len(ended) == 0:
            return
        raise ResetNeeded(
            f"expected step() on running episodes only, got ended ones in rows {ended.tolist()}; "
            "reset them first"
        )

    def seed(self, seeds: Sequence[int | None] | None, rows: Rows) -> None:
        """Seeds the generators of some rows.

        Args:
            seeds: A seed for each of the B rows; where that is None, the row keeps its generator,
                or gets a randomly seeded one if it has none.
            rows: Rows to seed.
        """
        if not self.generators:
            fresh = [seeding.np_random() for _ in range(self.num_envs)]
            self.generators = [generator for generator, _ in fresh]
            self.seeds = [used for _, used in fresh]
        if seeds is None:
            return
        for row in rows:
            if seeds[row] is not None:
                self.generators[row], self.seeds[row] = seeding.np_random(seeds[row])

    def use_generators(self, generators: Sequence[np.random.Generator]) -> None:
        """Draws from the given generators, one per row; their seeds are unknown, written as −1.

        Raises:
            InvalidInputError: If they are something else, or not B.
        """
        given = list(generators) if isinstance(generators, list | tuple) else [generators]
        kinds = {type(one).__name__ for one in given if not isinstance(one, np.random.Generator)}
        if len(given) != self.num_envs or kinds:
            raise InvalidInputError(
                f"expected {self.num_envs} generators of NumPy, got {len(given)}"
                + (f", among them {', '.join(sorted(kinds))}" if kinds else "")
            )
        self.generators = list(generators)
        self.seeds = [-1] * self.num_envs

    def draw_prompts(self, rows: Rows) -> PromptIds:
        """Draws the prompts of episodes to come uniformly, ``[N]`` for the N rows."""
        chosen = [self.generators[row] for row in rows]
        return np.array([generator.integers(self._num_prompts) for generator in chosen])

    def begin(self, rows: Rows, prompt_ids: PromptIds) -> None:
        """Starts new episodes in some rows from fresh noise.

        Args:
            rows: Rows to start.
            prompt_ids: Prompts of all rows, ``[B]``.
        """
        chosen = [self.generators[row] for row in rows]
        noise = np.stack(
            [
                generator.standard_normal(self._latent_shape, dtype=np.float32)
                for generator in chosen
            ]
        )
        latents = torch.from_numpy(noise).to(self._device)
        if len(rows) < self.num_envs:
            merged = self.latents.clone()
            merged[torch.from_numpy(rows)] = latents
            latents = merged
        self._latents = latents
        self.step_index = self.step_index.copy()
        self.step_index[rows] = 0
        self.prompt_ids = prompt_ids.copy()

    def advance(self, latents: Tensor, waiting: Rows) -> Rows:
        """Makes ``latents`` ``[B, C, h, w]`` the current ones; returns the rows that ended.

        Args:
            latents: The next latents.
            waiting: Rows that make no step, and keep their latents.
        """
        if len(waiting):
            rows = torch.from_numpy(waiting).to(self._device)
            latents = latents.index_copy(0, rows, self.latents[rows])
        self._latents = latents
        self.step_index = self.step_index + 1
        self.step_index[waiting] -= 1
        return self.ended

    def restore(self, latents: Tensor, step_index: Rows, prompt_ids: PromptIds) -> None:
        """Replaces all episodes by copies of the given ones."""
        self._latents = latents.detach().to(self._device, torch.float32, copy=True)
        self.step_index = np.array(step_index, dtype=np.int64)
        self.prompt_ids = prompt_ids.copy()

    def check_rng(self, states: Any) -> None:
        """Checks that `restore_rng` can take states, and changes nothing.

        Raises:
            InvalidInputError: They are not of B generators, or not of the kind that the rows have.
        """
        if not isinstance(states, list | tuple) or len(states) != self.num_envs:
            found = len(states) if isinstance(states, list | tuple) else shown(states)
            raise InvalidInputError(
                f"expected a state with the rng of {self.num_envs} rows, got {found}"
            )
        kinds = [type(generator.bit_generator) for generator in self.generators]
        for row, state in enumerate(states):
            scratch = kinds[row]() if kinds else np.random.PCG64()
            try:
                scratch.state = state
            except (TypeError, ValueError, LookupError, OverflowError) as error:
                raise InvalidInputError(
                    f"expected a state whose rng is that of {type(scratch).__name__} generators, "
                    f"got {shown(state)} in row {row}"
                ) from error

    def rng_state(self) -> tuple[dict[str, Any], ...]:
        """State of every row's generator."""
        return tuple(dict(generator.bit_generator.state) for generator in self.generators)

    def restore_rng(self, states: Sequence[dict[str, Any]]) -> None:
        """Sets every row's generator to a state from `rng_state`, checked by `check_rng`."""
        self.seed(None, np.arange(self.num_envs))
        for generator, state in zip(self.generators, states, strict=True):
            generator.bit_generator.state = state
