"""What a caller may ask for in ``reset(options=…)``, checked."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from diffusion_gym.envs._prompt_table import PromptIds, PromptTable
from diffusion_gym.envs.state import DenoisingState
from diffusion_gym.errors import InvalidInputError, unknown_name

OPTIONS = ("prompts", "prompt_ids", "state", "reset_mask")


@dataclasses.dataclass(frozen=True)
class ResetRequest:
    """A checked ``options`` dictionary.

    Attributes:
        rows: Rows to reset, ``[N]``.
        prompt_ids: Prompt of every row of the batch, ``[B]``, or None to draw them.
        state: State to continue from instead of starting anew.
    """

    rows: npt.NDArray[np.int64]
    prompt_ids: PromptIds | None = None
    state: DenoisingState | None = None


def parse_options(
    options: dict[str, Any] | None, num_envs: int, table: PromptTable
) -> ResetRequest:
    """Checks ``options``; the dictionary itself is left untouched.

    Args:
        options: At most one of ``prompts`` (B texts), ``prompt_ids`` (B ids) and ``state``;
            ``reset_mask`` (bool ``[B]``) restricts a reset to some rows, and the entries of
            ``prompts`` and ``prompt_ids`` for the other rows are ignored.
        num_envs: B, the number of rows.
        table: Looks up the texts; unknown ones are added to it.

    Raises:
        InvalidInputError: For an unknown key, contradicting keys, or a wrong length or type.
    """
    options = options or {}
    for key in options:
        if key not in OPTIONS:
            raise unknown_name("reset option", key, OPTIONS)
    sources = [key for key in ("prompts", "prompt_ids", "state") if key in options]
    if len(sources) > 1 or ("state" in options and "reset_mask" in options):
        raise InvalidInputError(
            "expected at most one of the reset options prompts, prompt_ids and state, and no "
            f"reset_mask beside a state, got {', '.join(options)}"
        )
    rows = _masked_rows(options.get("reset_mask"), num_envs)
    prompt_ids = None
    if "prompts" in options:
        texts = options["prompts"]
        if isinstance(texts, str) or len(texts) != num_envs:
            raise InvalidInputError(f"expected a list of {num_envs} prompts, got {texts!r}")
        prompt_ids = table.ids(texts)
    if "prompt_ids" in options:
        prompt_ids = table.checked(options["prompt_ids"])
        if len(prompt_ids) != num_envs:
            raise InvalidInputError(f"expected {num_envs} prompt ids, got {len(prompt_ids)}")
    return ResetRequest(rows, prompt_ids, options.get("state"))


def _masked_rows(mask: Any, num_envs: int) -> npt.NDArray[np.int64]:
    """Row numbers where the mask is true; all of them without a mask."""
    if mask is None:
        return np.arange(num_envs)
    array = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.shape != (num_envs,) or array.dtype != np.bool_ or not array.any():
        raise InvalidInputError(
            f"expected reset_mask to be bool of shape ({num_envs},) with at least one True, "
            f"got {mask!r}"
        )
    return np.flatnonzero(array)
