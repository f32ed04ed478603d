"""What one way to train takes in memory, counted and traced on fake tensors."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from agents.policy.lora import LoraSettings, add_lora
from agents.policy.precision import AUTOCAST, Precision
from benchmarks.memory.tracing import PeakMemory, cast_norms_as_cuda_does, parameter_bytes
from benchmarks.sized.networks import ModelSize
from diffusion_gym.models.decoder import DECODE_PIXELS
from diffusion_gym.models.denoiser import Denoiser
from diffusion_gym.models.guidance import guided_prediction

USABLE = 0.9
"""Part of a card that is counted on: CUDA itself, workspaces and fragmentation take the rest."""

STEPS = 50
IMAGES = 64
"""Images of a round, whose trajectories are kept."""

ROWS = 8
"""Images drawn at once."""

GUIDANCE = 5.0
TRACED = (1, 3)
"""Numbers of pairs that are traced; what others need lies on the line through these."""

OPTIMIZER_BYTES = {"adamw_fused": 8.0, "adamw_8bit": 2.0 + 2 * 4 / 256}
"""Bytes per trained weight: two moments; in eight bits, with one scale per block of 256."""


@dataclass(frozen=True)
class Training:
    """One way to train.

    Attributes:
        lora_rank: Rank of adapters; 0 trains all weights.
        autocast: Precision of the arithmetic, and of all frozen networks.
        gradient_checkpointing: Whether activations are computed anew in the backward pass.
        optimizer: A key of `OPTIMIZER_BYTES`.
    """

    lora_rank: int
    autocast: str = "bfloat16"
    gradient_checkpointing: bool = False
    optimizer: str = "adamw_fused"

    def __str__(self) -> str:
        what = "all weights" if self.lora_rank == 0 else f"LoRA rank {self.lora_rank}"
        return ", ".join(
            [what, self.autocast]
            + ["checkpointing"] * self.gradient_checkpointing
            + [self.optimizer] * (self.optimizer != "adamw_fused")
        )

    def precision(self, device_type: str) -> Precision:
        """As `UNetPolicy` has it where the environment's ``dtype`` is that of the arithmetic."""
        return Precision(self.autocast, AUTOCAST[self.autocast] or torch.float32, device_type)


TRAININGS = (
    Training(4, "float32"),
    Training(4),
    Training(4, gradient_checkpointing=True),
    Training(0),
    Training(0, gradient_checkpointing=True),
    Training(0, gradient_checkpointing=True, optimizer="adamw_8bit"),
)


@dataclass(frozen=True)
class Needs:
    """Bytes that one way to train a model takes.

    Attributes:
        denoiser: The denoiser's weights, frozen and trained.
        trained: Number of weights that train.
        gradients: Their gradients.
        optimizer: The optimiser's states.
        base_copy: The frozen second denoiser that divergences to the base model are measured with.
        other_networks: Autoencoder and text encoders.
        trajectories: Latents of one round.
        old_weights: What DiffusionNFT draws with, in the place of the second denoiser.
        final_latents: What it keeps of one round, in the place of the trajectories.
        first_pair: What a forward and backward pass of one guided pair needs on top.
        next_pair: What every further pair adds.
        rollout: What drawing needs on top, without gradients.
        decoding: What decoding needs on top.
    """

    denoiser: int
    trained: int
    gradients: int
    optimizer: int
    base_copy: int
    other_networks: int
    trajectories: int
    old_weights: int
    final_latents: int
    first_pair: int
    next_pair: int
    rollout: int
    decoding: int

    @property
    def always(self) -> int:
        """What is there all the time, for PPO."""
        parts = (self.denoiser, self.gradients, self.optimizer, self.base_copy)
        return sum(parts) + self.other_networks + self.trajectories

    def most_pairs(self, card: float) -> int:
        """The largest ``batch_size`` that fits on a card of so many bytes; 0 where none does."""
        room = USABLE * card - self.always
        if room < max(self.rollout, self.decoding, self.first_pair):
            return 0
        return 1 + int((room - self.first_pair) // self.next_pair)


def needs(size: ModelSize, training: Training) -> Needs:
    """Counts and traces; nothing is allocated, and no device is used."""
    precision = training.precision("cpu")
    # Networks whose passes are traced become fake tensors; of the others sizes alone matter.
    with torch.device("meta"):  # fake tensors' precision cannot be changed in place
        denoiser = training_denoiser(size, training, precision)
        vae = nn.Module.to(size.autoencoder(), precision.frozen)  # diffusers' own `to` warns
        other_networks = [vae, *(network.to(precision.frozen) for network in size.encoders())]
        base = precision.freeze(size.denoiser())
    with FakeTensorMode(allow_non_fake_inputs=True):  # the ones without a device
        denoiser.to_empty(device="cpu")
        vae.to_empty(device="cpu")
        make_gradients(denoiser)
        first, other = (traced_update(size, denoiser, precision, pairs) for pairs in TRACED)
        rollout = traced_rollout(size, denoiser, precision)
        decoding = traced_decoding(size, vae, precision)
    count = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
    final_latents = IMAGES * math.prod(size.latent_shape) * 4
    return Needs(
        denoiser=parameter_bytes(denoiser),
        trained=count,
        gradients=parameter_bytes(denoiser, trained=True),
        optimizer=round(count * OPTIMIZER_BYTES[training.optimizer]),
        base_copy=0 if training.lora_rank else parameter_bytes(base),
        other_networks=sum(parameter_bytes(network) for network in other_networks),
        trajectories=(STEPS + 1) * final_latents,
        old_weights=parameter_bytes(denoiser, trained=True),
        final_latents=final_latents,
        first_pair=first,
        next_pair=(other - first) // (TRACED[1] - TRACED[0]),
        rollout=rollout,
        decoding=decoding,
    )


def training_denoiser(size: ModelSize, training: Training, precision: Precision) -> Denoiser:
    """A denoiser as `UNetPolicy` sets it up, on torch's default device."""
    denoiser = size.denoiser()
    if training.lora_rank == 0:
        denoiser.requires_grad_(True)
    else:
        add_lora(precision.freeze(denoiser), LoraSettings(training.lora_rank))
    if training.gradient_checkpointing:
        denoiser.network.enable_gradient_checkpointing()
    return denoiser


def make_gradients(denoiser: Denoiser) -> None:
    """Gives every trained weight a gradient: an update may take several passes."""
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def resident(denoiser: Denoiser) -> list[torch.Tensor]:
    """Weights, buffers and gradients: what is there before a pass."""
    gradients = (parameter.grad for parameter in denoiser.parameters())
    present = [gradient for gradient in gradients if gradient is not None]
    return [*denoiser.parameters(), *denoiser.buffers(), *present]


def guided_output(
    size: ModelSize, denoiser: Denoiser, precision: Precision, rows: int
) -> torch.Tensor:
    """What the denoiser predicts for some rows, with guidance."""
    with precision.autocast():
        return guided_prediction(
            denoiser,
            size.latents(rows),
            torch.zeros(rows, dtype=torch.int64),
            size.embedding(rows),
            null_embedding=size.embedding(1),
            guidance=GUIDANCE,
        )


def update_pass(size: ModelSize, denoiser: Denoiser, precision: Precision, pairs: int) -> None:
    """Forward and backward pass of guided pairs.

    The loss is simpler than PPO's, whose few tensors of the latents' size do not count.
    """
    guided_output(size, denoiser, precision, pairs).float().square().mean().backward()


def traced_update(size: ModelSize, denoiser: Denoiser, precision: Precision, pairs: int) -> int:
    """Bytes that `update_pass` needs at once, beside weights and gradients."""
    with _as_on_cuda(denoiser, precision) as memory:
        update_pass(size, denoiser, precision, pairs)
    return memory.peak


def traced_rollout(size: ModelSize, denoiser: Denoiser, precision: Precision) -> int:
    """Bytes that drawing `ROWS` guided pictures needs at once, beside the weights."""
    with _as_on_cuda(denoiser, precision) as memory, torch.no_grad():
        guided_output(size, denoiser, precision, ROWS)
    return memory.peak


def traced_decoding(size: ModelSize, vae: Any, precision: Precision) -> int:
    """Bytes that decoding needs at once, beside the weights, as many pictures as `Decoder` does."""
    height, width = size.image_size
    latents = size.latents(max(1, DECODE_PIXELS // (height * width)))
    memory = PeakMemory(vae.parameters())
    with memory, torch.no_grad():
        vae.decode(latents.to(precision.frozen))
    return memory.peak


@contextlib.contextmanager
def _as_on_cuda(denoiser: Denoiser, precision: Precision) -> Iterator[PeakMemory]:
    handles = [] if precision.name == "float32" else cast_norms_as_cuda_does(denoiser)
    with PeakMemory(resident(denoiser)) as memory:
        yield memory
    for handle in handles:
        handle.remove()


def measured_update(size: ModelSize, training: Training, pairs: int) -> int:
    """Bytes that `update_pass` takes on the GPU of this machine, beside weights and gradients."""
    precision = training.precision("cuda")
    with torch.device("cuda"):
        denoiser = training_denoiser(size, training, precision)
        make_gradients(denoiser)
        update_pass(size, denoiser, precision, 1)  # libraries allocate what they keep
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        update_pass(size, denoiser, precision, pairs)
        return torch.cuda.max_memory_allocated() - before
