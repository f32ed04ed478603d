"""Low-rank adapters on a denoiser's attention (LoRA, arXiv 2106.09685), by peft."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peft import LoraConfig
from torch import nn

ATTENTION_LAYERS = ("to_k", "to_q", "to_v", "to_out.0")
"""The layers that ddpo-pytorch and diffusers' own training scripts adapt."""


@dataclass(frozen=True)
class LoraSettings:
    """Size of the adapters.

    Attributes:
        rank: Rank of the update of each layer's weight.
        alpha: The update is scaled by alpha / rank; None means alpha = rank, a scale of 1.
        targets: Suffixes of the names of the layers to adapt.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ATTENTION_LAYERS

    def config(self) -> LoraConfig:
        """These settings for peft; without dropout, which would break the PPO ratio."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,
            init_lora_weights="gaussian",
            target_modules=list(self.targets),
            lora_dropout=0.0,
        )


def add_lora(denoiser: nn.Module, settings: LoraSettings) -> None:
    """Adds trainable adapters in place; the weights below them stay frozen."""
    denoiser.requires_grad_(False)
    denoiser.add_adapter(settings.config())


@contextmanager
def without_lora(denoiser: nn.Module) -> Iterator[None]:
    """The denoiser as it was before `add_lora`, for the time of a ``with`` block."""
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()
