"""Checks of what callers hand to the environments; none of them changes anything."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode
from torch import Tensor

from diffusion_gym.checks import Range, checked, whole_numbers
from diffusion_gym.envs._episodes import EpisodeBatch
from diffusion_gym.envs._prompt_table import PromptIds, PromptTable
from diffusion_gym.envs.spaces import LATENT_BOUND
from diffusion_gym.envs.state import DenoisingState
from diffusion_gym.errors import InvalidInputError, shown, unknown_name

AUTORESET_MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)
OPTIONS = ("prompts", "prompt_ids", "state", "reset_mask")

BatchSize = Annotated[int, Range(low=1, high=2**20)]
"""No machine holds more, and arrays cannot count them without end."""

Seeds = list[int | None]

# ------------------------------------------------------------------------------- construction


def checked_num_envs(num_envs: int) -> int:
    """A batch size of at least 1.

    Raises:
        InvalidInputError: Otherwise.
    """
    return int(checked("num_envs", num_envs, BatchSize))


def checked_name(kind: str, name: str, known: tuple[str, ...]) -> str:
    """One of the known names.

    Raises:
        InvalidInputError: Otherwise.
    """
    if not isinstance(name, str) or name not in known:
        raise unknown_name(kind, name, known)
    return name


def checked_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """One of the autoreset modes that the vector environment has.

    Raises:
        InvalidInputError: Otherwise.
    """
    value = mode.value if isinstance(mode, AutoresetMode) else mode
    for known in AUTORESET_MODES:
        if isinstance(value, str) and value == known.value:
            return known
    raise unknown_name("autoreset mode", value, [known.value for known in AUTORESET_MODES])


# ------------------------------------------------------------------------------------ latents


def checked_actions(
    actions: Any, shape: tuple[int, ...], device: torch.device, ignored: npt.NDArray[np.int64]
) -> tuple[Tensor, int]:
    """Actions as the next latents, a float32 copy on the device.

    Args:
        actions: ``[B, C, h, w]``.
        shape: The shape expected.
        device: Where latents live.
        ignored: Rows whose action counts for nothing; it is made 0.

    Returns:
        The latents, and how many rows of them have an entry beyond the action space's bounds.

    Raises:
        InvalidAction: If they are no real numbers, the shape is wrong, or an entry is NaN or
            infinite.
    """
    latents = copied_latents("actions, the next latents", actions, shape, device, InvalidAction)
    if len(ignored):
        latents[torch.from_numpy(ignored).to(device)] = 0.0
    if latents.abs().amax() <= LATENT_BOUND:  # false also where an entry is NaN
        return latents, 0
    require_finite("actions", latents, InvalidAction)
    largest = latents.abs().flatten(1).amax(dim=1)
    return latents, int((largest > LATENT_BOUND).sum())


def copied_latents(
    what: str,
    value: Any,
    shape: tuple[int, ...],
    device: torch.device,
    error: type[Exception] = InvalidInputError,
) -> Tensor:
    """Real numbers of a shape as a float32 copy on the device, without gradients.

    Args:
        what: What they are, for messages.
        value: A tensor, an array, or nested lists.
        shape: The shape expected.
        device: Where latents live.
        error: What to raise.

    Raises:
        InvalidAction: Or another error: they are no real numbers, or the shape is wrong.
    """
    array = real_numbers(what, value, error)
    if tuple(array.shape) != tuple(shape):
        raise error(f"expected {what}, of shape {tuple(shape)}, got {tuple(array.shape)}")
    if isinstance(array, Tensor):
        return array.detach().to(device, torch.float32, copy=True)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the caller looks for
        return torch.from_numpy(np.array(array, np.float32, order="C")).to(device)


def real_numbers(
    what: str, value: Any, error: type[Exception] = InvalidInputError
) -> Tensor | npt.NDArray[Any]:
    """A tensor, or whatever else NumPy takes for an array, if it holds real numbers.

    Raises:
        InvalidAction: Or another error: it holds something else, or nothing.
    """
    if isinstance(value, Tensor):
        real = value.dtype.is_floating_point or value.dtype in _WHOLE
        if real and value.layout == torch.strided and value.device.type != "meta":
            return value
        kind = f"a tensor of {value.dtype} ({value.layout}, on {value.device})"
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as cause:  # lists of different lengths
            raise error(f"expected {what}, as an array of real numbers, got {cause}") from cause
        if array.dtype.kind in "fiu":
            return array
        kind = f"{type(value).__name__} of {array.dtype}"
    raise error(f"expected {what}, as an array of real numbers, got {kind}")


_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def require_finite(
    what: str, latents: Tensor, error: type[Exception] = InvalidInputError, cause: str = ""
) -> None:
    """Raises an error where latents ``[B, …]`` hold NaN or infinity; it names the rows."""
    finite = latents.isfinite().flatten(1).all(dim=1)
    if finite.all():
        return
    rows = (~finite).nonzero().squeeze(1).tolist()
    raise error(f"expected finite {what}, got NaN or infinity in rows {rows}{cause}")


# --------------------------------------------------------------------------------------- state


def check_state(
    state: DenoisingState,
    model: str,
    num_steps: int,
    shape: tuple[int, ...],
    table: PromptTable,
    episodes: EpisodeBatch,
) -> None:
    """Checks that a state is consistent and fits an environment.

    Args:
        state: The state.
        model: Name of the environment's model.
        num_steps: T of the environment.
        shape: Shape of its latents, ``[B, C, h, w]``.
        table: Knows which prompts can be used.
        episodes: Knows what generators its rows have.

    Raises:
        InvalidInputError: If it is not or does not.
    """
    if not isinstance(state, DenoisingState):
        raise InvalidInputError(f"expected a DenoisingState, got {type(state).__name__}")

    # 1. It is of the same model and number of steps.
    for what, expected, given in (
        ("model", model, state.model),
        ("number of steps", num_steps, state.num_steps),
    ):
        if type(given) is not type(expected) or given != expected:
            raise InvalidInputError(
                f"expected a state whose {what} is {expected!r}, got {shown(given)}"
            )

    # 2. Everything in it is there for all rows.
    latents = state.latents
    if not isinstance(latents, Tensor) or not latents.dtype.is_floating_point:
        kind = latents.dtype if isinstance(latents, Tensor) else type(latents).__name__
        raise InvalidInputError(f"expected a state's latents as a tensor of floats, got {kind}")
    if tuple(latents.shape) != shape:
        raise InvalidInputError(
            f"expected a state whose latents' shape is {shape}, got {tuple(latents.shape)}"
        )
    index = whole_numbers("a state's step indices", state.step_index, shape[0])
    whole_numbers("a state's prompt ids", state.prompt_ids, shape[0])
    table.check(_texts("a state's prompts", state.prompts, shape[0]))

    # 3. Its numbers are possible ones.
    if (index < 0).any() or (index > num_steps).any():
        raise InvalidInputError(
            f"expected a state's step indices from 0 to {num_steps}, got {index.tolist()}"
        )
    require_finite("latents of a state", latents)
    if state.rng is not None:
        episodes.check_rng(state.rng)


# --------------------------------------------------------------------------------------- reset


@dataclasses.dataclass(frozen=True)
class ResetRequest:
    """What ``reset`` was asked for, checked.

    Attributes:
        rows: Rows to reset, ``[N]``.
        prompts: Texts for these rows, ``[N]``, or None.
        prompt_ids: Prompts of these rows, ``[N]``, or None; without either they are drawn.
        state: State to continue from instead of starting anew.
    """

    rows: npt.NDArray[np.int64]
    prompts: list[str] | None = None
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
        table: Knows which prompts can be used.

    Raises:
        InvalidInputError: For an unknown key, contradicting keys, or a wrong length or type.
    """
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise InvalidInputError(
            f"expected reset options as a dictionary, got {type(options).__name__} {shown(options)}"
        )
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
    if "prompts" in options:
        texts = _texts("the reset option prompts", options["prompts"], num_envs, rows)
        table.check(texts)
        return ResetRequest(rows, prompts=texts)
    if "prompt_ids" in options:
        ids = whole_numbers("the reset option prompt_ids", options["prompt_ids"], num_envs)
        return ResetRequest(rows, prompt_ids=table.checked(ids[rows]))
    return ResetRequest(rows, state=options.get("state"))


def checked_seeds(seed: Any, num_envs: int) -> Seeds | None:
    """A seed for every row.

    Args:
        seed: Row i gets ``seed + i`` or the i-th of a sequence; None is no seed.
        num_envs: B.

    Raises:
        InvalidInputError: If one is no whole number of at least 0, or there are not B of them.
    """
    if seed is None:
        return None
    if isinstance(seed, np.ndarray):
        seed = seed.tolist() if seed.ndim == 1 else seed[()]
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes):
        if len(seed) != num_envs:
            raise InvalidInputError(f"expected {num_envs} seeds, got {len(seed)}")
        return [None if one is None else _checked_seed(one) for one in seed]
    first = _checked_seed(seed)
    return [first + row for row in range(num_envs)]


def _checked_seed(seed: Any) -> int:
    # Any size: gymnasium's own random seeds, as np_random_seed tells them, have 128 bits.
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or seed < 0:
        raise InvalidInputError(
            f"expected a seed to be a whole number of at least 0, or None, got {shown(seed)}"
        )
    return int(seed)


def _texts(
    what: str, texts: Any, count: int, rows: npt.NDArray[np.int64] | None = None
) -> list[str]:
    """Prompts of some rows, of all without ``rows``; the others are not looked at."""
    listed = texts.tolist() if isinstance(texts, np.ndarray) else texts
    if not isinstance(listed, list | tuple) or len(listed) != count:
        found = f"{len(listed)} of them" if isinstance(listed, list | tuple) else shown(texts)
        raise InvalidInputError(f"expected a list of {count} prompts as {what}, got {found}")
    chosen = listed if rows is None else [listed[row] for row in rows]
    for text in chosen:
        if not isinstance(text, str) or not text.strip():
            raise InvalidInputError(
                f"expected prompts to be strings that are not empty as {what}, got {shown(text)}"
            )
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidInputError(
                f"expected prompts made of characters as {what}, got NUL or half of a surrogate "
                f"pair in {shown(text)}"
            )
    return [str(text) for text in chosen]


def _masked_rows(mask: Any, num_envs: int) -> npt.NDArray[np.int64]:
    """Row numbers where the mask is true; all of them without a mask."""
    if mask is None:
        return np.arange(num_envs)
    try:
        array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    except (TypeError, ValueError, RuntimeError):  # of different lengths, or not to be read
        array = np.empty(0)
    if array.shape != (num_envs,) or array.dtype != np.bool_ or not array.any():
        raise InvalidInputError(
            f"expected reset_mask to be bool of shape ({num_envs},) with at least one True, "
            f"got {shown(mask)}"
        )
    return np.flatnonzero(array)
