"""What the policy tells the environment of the image it is heading for."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_gym.envs._requests import copied_latents, require_finite
from diffusion_gym.errors import InvalidInputError


class Reports:
    """The predicted clean latents of a batch: reported, used by one step, then out of date.

    Args:
        shape: ``(B, C, h, w)``.
        device: Where latents live.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._shape = shape
        self._device = device
        self._reported: Tensor | None = None  # for the step to come
        self._used: Tensor | None = None  # of the step just made

    def report(self, predicted_clean: Any, ignored: npt.NDArray[np.int64]) -> None:
        """Takes a copy of the predictions for the step to come, ``[B, C, h, w]``.

        Args:
            predicted_clean: The predictions.
            ignored: Rows that make no step, whose prediction counts for nothing.

        Raises:
            InvalidInputError: They are no real numbers, the shape is wrong, or an entry is NaN or
                infinite.
        """
        what = "predicted clean latents"
        reported = copied_latents(what, predicted_clean, self._shape, self._device)
        if len(ignored):
            reported[torch.from_numpy(ignored).to(self._device)] = 0.0
        require_finite(
            what, reported, cause="; does the denoiser overflow? bfloat16 and float32 reach further"
        )
        self._reported = reported

    @property
    def reported(self) -> Tensor:
        """The predictions for the step to come, ``[B, C, h, w]``.

        Raises:
            InvalidInputError: If nothing was reported since the last step or reset.
        """
        if self._reported is None:
            raise InvalidInputError(
                "expected the policy to call env.unwrapped.report(predicted_clean) before every "
                "step(), got no report since the last step or reset"
            )
        return self._reported

    def begin_step(self) -> None:
        """Marks the start of a step: what was reported for it is out of date afterwards."""
        self._used, self._reported = self._reported, None

    def clear(self) -> None:
        """Forgets everything, when episodes begin anew."""
        self._used = self._reported = None

    def replace(self, rows: Tensor, latents: Tensor) -> None:
        """Puts the latents themselves in place of the predictions of rows that made no step."""
        if self._used is not None:
            self._used = self._used.index_copy(0, rows, latents)

    def newest(self, latents: Tensor) -> Tensor:
        """The newest prediction there is, or else the latents themselves, ``[B, C, h, w]``."""
        for newest in (self._reported, self._used):
            if newest is not None:
                return newest
        return latents
