"""Checks of what callers hand to the environments."""

from typing import Any

import torch
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode
from torch import Tensor

from diffusion_gym.envs._spaces import LATENT_BOUND
from diffusion_gym.envs.state import DenoisingState
from diffusion_gym.errors import InvalidInputError, unknown_name

AUTORESET_MODES = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)


def checked_num_envs(num_envs: int) -> int:
    """A batch size of at least 1.

    Raises:
        InvalidInputError: Otherwise.
    """
    if not isinstance(num_envs, int) or num_envs < 1:
        raise InvalidInputError(f"expected num_envs to be an integer ≥ 1, got {num_envs!r}")
    return num_envs


def checked_name(kind: str, name: str, known: tuple[str, ...]) -> str:
    """One of the known names.

    Raises:
        InvalidInputError: Otherwise.
    """
    if name not in known:
        raise unknown_name(kind, name, known)
    return name


def checked_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """One of the autoreset modes that the vector environment has.

    Raises:
        InvalidInputError: Otherwise.
    """
    value = mode.value if isinstance(mode, AutoresetMode) else mode
    for known in AUTORESET_MODES:
        if value == known.value:
            return known
    raise unknown_name("autoreset mode", value, [known.value for known in AUTORESET_MODES])


def checked_actions(
    actions: Any, shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor, int]:
    """Actions as the next latents, a float32 copy on the device.

    Args:
        actions: ``[B, C, h, w]``.
        shape: The shape expected.
        device: Where latents live.

    Returns:
        The latents, and how many rows of them have an entry beyond the action space's bounds.

    Raises:
        InvalidAction: If the shape is wrong or an entry is NaN or infinite.
    """
    latents = torch.as_tensor(actions, device=device)
    if latents.shape != shape:
        raise InvalidAction(
            f"expected actions of shape {shape}, the next latents, got {tuple(latents.shape)}"
        )
    latents = latents.detach().to(torch.float32, copy=True)
    if latents.abs().amax() <= LATENT_BOUND:  # false also where an entry is NaN
        return latents, 0
    largest = latents.abs().flatten(1).amax(dim=1)
    broken = (~largest.isfinite()).nonzero().squeeze(1).tolist()
    if broken:
        raise InvalidAction(f"expected finite actions, got NaN or infinity in rows {broken}")
    return latents, int((largest > LATENT_BOUND).sum())


def check_state(state: DenoisingState, model: str, num_steps: int, shape: tuple[int, ...]) -> None:
    """Checks that a state fits an environment.

    Args:
        state: The state.
        model: Name of the environment's model.
        num_steps: T of the environment.
        shape: Shape of its latents, ``[B, C, h, w]``.

    Raises:
        InvalidInputError: If it does not.
    """
    if not isinstance(state, DenoisingState):
        raise InvalidInputError(f"expected a DenoisingState, got {type(state).__name__}")
    for what, expected, given in (
        ("model", model, state.model),
        ("number of steps", num_steps, state.num_steps),
        ("latents' shape", shape, tuple(state.latents.shape)),
    ):
        if given != expected:
            raise InvalidInputError(f"expected a state whose {what} is {expected!r}, got {given!r}")
    index = state.step_index
    if (index < 0).any() or (index > num_steps).any():
        raise InvalidInputError(
            f"expected a state's step indices from 0 to {num_steps}, got {index.tolist()}"
        )
    if not state.latents.isfinite().all():
        raise InvalidInputError("expected a state of finite latents, got NaN or infinity")
