"""Optimisers by name: AdamW as torch has it, in one kernel, or with states of eight bits."""

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from diffusion_gym.checks import NotNegative, Share, checked
from diffusion_gym.errors import InvalidInputError, first_line, shown, unknown_name


def make_optimizer(
    name: str, parameters: Iterable[Parameter], learning_rate: float, **options: Any
) -> Optimizer:
    """An optimiser of some parameters.

    Args:
        name: ``"adamw"``; ``"adamw_fused"``, the same in one kernel per step, faster on a GPU; or
            ``"adamw_8bit"`` (arXiv 2110.02861), whose states take a quarter of the memory.
        parameters: What it trains.
        learning_rate: The rate.
        options: AdamW's, such as ``weight_decay``.

    Raises:
        InvalidInputError: The name is unknown, or what it needs is not installed, or an option is
            none, of another type or outside its range.
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    optimizer = OPTIMIZERS[name]()
    try:
        return optimizer(parameters, lr=learning_rate, **_checked(options))
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"expected optimizer_kwargs as optimizer {name!r} takes them, got {shown(options)}: "
            f"{first_line(error)}"
        ) from error


_KINDS: dict[str, Any] = {
    "betas": Sequence[float],
    "eps": NotNegative,
    "weight_decay": NotNegative,
    "amsgrad": bool,
    "maximize": bool,
}
"""Of AdamW's options, those that change what is learned."""


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the types that torch does not look at.

    Raises:
        InvalidInputError: One is of another type or outside its range.
    """
    values = {name: checked(name, value, _KINDS.get(name, Any)) for name, value in options.items()}
    if "betas" in values:
        if len(values["betas"]) != 2:
            raise InvalidInputError(f"expected two betas, got {shown(options['betas'])}")
        values["betas"] = tuple(checked("a beta", beta, Share) for beta in values["betas"])
    return values


def _fused() -> Callable[..., Optimizer]:
    return lambda parameters, **options: AdamW(parameters, fused=True, **options)


def _eight_bit() -> Callable[..., Optimizer]:
    try:
        optimizers = importlib.import_module("bitsandbytes.optim")
    except ImportError as error:
        raise InvalidInputError(
            "optimizer 'adamw_8bit' needs the package bitsandbytes, which is not installed "
            f"({error}): pip install bitsandbytes, or take 'adamw' or 'adamw_fused'"
        ) from error
    eight_bit: Callable[..., Optimizer] = optimizers.AdamW8bit
    return eight_bit


OPTIMIZERS: dict[str, Callable[[], Callable[..., Optimizer]]] = {
    "adamw": lambda: AdamW,
    "adamw_fused": _fused,
    "adamw_8bit": _eight_bit,
}
