"""Low-rank adapters on a denoiser's attention (LoRA, arXiv 2106.09685), by peft."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from torch import nn

from agents.policy.config import PolicyConfig
from diffusion_gym.errors import InvalidInputError, shown
from diffusion_gym.models import Denoiser

ATTENTION_LAYERS = ("to_k", "to_q", "to_v", "to_out.0")
"""The layers that ddpo-pytorch and diffusers' own training scripts adapt."""

JOINT_ATTENTION_LAYERS = (
    *ATTENTION_LAYERS,
    *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
)
"""The same for SD3, whose attention has projections of the prompt as well."""

ADAPTER = "default"
"""The name that peft knows the adapters by which are trained."""

LAYERS = (nn.Linear, nn.Conv2d)
"""The kinds of layers that can be adapted."""


@dataclass(frozen=True)
class LoraSettings:
    """Size of the adapters.

    Attributes:
        rank: Rank of the update of each layer's weight.
        alpha: The update is scaled by alpha / rank; None means alpha = rank, a scale of 1.
        targets: Suffixes of the names of the layers to adapt; None means those of the attention.
    """

    rank: int
    alpha: float | None = None
    targets: Sequence[str] | None = None

    @classmethod
    def of(cls, config: PolicyConfig) -> "LoraSettings | None":
        """The adapters that a policy asks for; None where all weights train."""
        if config.lora_rank == 0:
            return None
        return cls(config.lora_rank, config.lora_alpha, config.lora_targets)

    def config(self, network: nn.Module) -> LoraConfig:
        """These settings for peft; without dropout, which would break the PPO ratio."""
        targets = self.targets
        if targets is None:
            joint = isinstance(network, SD3Transformer2DModel)
            targets = JOINT_ATTENTION_LAYERS if joint else ATTENTION_LAYERS
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,
            init_lora_weights="gaussian",
            target_modules=list(targets),
            lora_dropout=0.0,
        )


def add_lora(denoiser: Denoiser, settings: LoraSettings) -> None:
    """Adds trainable adapters in place to a frozen denoiser.

    The adapters are float32 whatever the precision of those weights: a learning rate's steps
    would be lost in the rounding of a half precision.

    Raises:
        InvalidInputError: A target is no layer of the denoiser, or not layers alone.
    """
    network = denoiser.network
    _check_targets(network, settings.targets)
    network.add_adapter(settings.config(network), ADAPTER)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def add_second_lora(denoiser: Denoiser, settings: LoraSettings, name: str) -> None:
    """Adds frozen adapters beside those of `add_lora`, of the same values; those stay in use."""
    network = denoiser.network
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # which is the point
        network.add_adapter(settings.config(network), name)
    network.set_adapter(ADAPTER)
    parameters = dict(network.named_parameters())
    for own, parameter in parameters.items():
        if parameter.requires_grad:
            other = parameters[own.replace(f".{ADAPTER}.", f".{name}.")]
            other.data = parameter.detach().clone()


def _check_targets(network: nn.Module, targets: Sequence[str] | None) -> None:
    """Refuses targets that peft cannot adapt, or would not find."""
    if targets is not None and not targets:
        raise InvalidInputError("expected at least one of lora_targets, or None, got none")
    for target in targets or ():
        found = [
            module
            for name, module in network.named_modules()
            if name == target or name.endswith(f".{target}")
        ]
        if not found or not all(isinstance(module, LAYERS) for module in found):
            others = sorted({type(module).__name__ for module in found})
            raise InvalidInputError(
                f"expected lora_targets that end the names of layers of {type(network).__name__}, "
                f"such as {', '.join(_layer_names(network))}; got {shown(target)}"
                + (f", which ends the names of {', '.join(others)}" if found else "")
            )


def _layer_names(network: nn.Module) -> list[str]:
    """The last parts of the names of all layers, the shortest that are no mere numbers."""
    names = set()
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            head, _, last = name.rpartition(".")
            names.add(f"{head.rpartition('.')[2]}.{last}" if last.isdigit() else last)
    return sorted(names)


@contextmanager
def other_lora(denoiser: Denoiser, name: str) -> Iterator[None]:
    """The denoiser with the adapters of `add_second_lora`, for the time of a ``with`` block.

    Those that are trained are frozen meanwhile: what is computed with them here has no gradient.
    """
    denoiser.network.set_adapter(name)
    try:
        yield
    finally:
        denoiser.network.set_adapter(ADAPTER)


@contextmanager
def without_lora(denoiser: Denoiser) -> Iterator[None]:
    """The denoiser as it was before `add_lora`, for the time of a ``with`` block."""
    denoiser.network.disable_adapters()
    try:
        yield
    finally:
        denoiser.network.enable_adapters()
