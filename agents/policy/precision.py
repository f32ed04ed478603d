"""In which precision a policy's denoiser computes, and in which its frozen weights are kept."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from diffusion_gym.errors import unknown_name
from diffusion_gym.models import Denoiser, DiffusionModel
from diffusion_gym.models.quiet import quiet_libraries

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What the denoiser's arithmetic may be, by name; None is no autocast."""


@dataclass(frozen=True)
class Precision:
    """Precision of a denoiser; latents, log-probabilities and trained weights are float32.

    Attributes:
        name: The arithmetic's, a key of `AUTOCAST`.
        frozen: What weights that never train are kept in: those below LoRA adapters, and the base
            model of a KL divergence. Half a precision is half the memory, and loses little where
            the arithmetic rounds them anyway; float32 arithmetic keeps them in float32.
        device_type: Where the denoiser is.
    """

    name: str
    frozen: torch.dtype
    device_type: str

    @classmethod
    def of(cls, model: DiffusionModel, autocast: str | None) -> "Precision":
        """The precision for a denoiser of a model.

        Args:
            model: Whose ``dtype`` the frozen weights take, unless the arithmetic is float32.
            autocast: A key of `AUTOCAST`; None is the model's own precision.

        Raises:
            InvalidInputError: The name is unknown.
        """
        name = str(model.dtype).removeprefix("torch.") if autocast is None else autocast
        if name not in AUTOCAST:
            raise unknown_name("autocast precision", name, AUTOCAST)
        frozen = torch.float32 if AUTOCAST[name] is None else model.dtype
        return cls(name, frozen, model.device.type)

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic, for the time of a ``with`` block."""
        dtype = AUTOCAST[self.name]
        return nullcontext() if dtype is None else torch.autocast(self.device_type, dtype=dtype)

    def freeze(self, denoiser: Denoiser) -> Denoiser:
        """A denoiser that never trains, its weights cast in place."""
        with quiet_libraries():  # diffusers would rather have the precision named on loading
            denoiser.network.to(self.frozen)
        return denoiser.requires_grad_(False)

    def new_scaler(self) -> torch.amp.GradScaler:
        """Keeps float16's gradients from vanishing; does nothing in the other precisions.

        A mean over the pairs and the latent's dimensions makes the gradient of one output about
        1e-6, and float16 ends at 6e-8; bfloat16 has the range of float32.
        """
        return torch.amp.GradScaler(self.device_type, enabled=AUTOCAST[self.name] is torch.float16)
