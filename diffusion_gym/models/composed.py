"""A checkpoint with parts of one's own: another VAE, LoRA in its weights."""

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_gym.models import hub
from diffusion_gym.models.checkpoint import Checkpoint
from diffusion_gym.models.fused_lora import FusedLora
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.own_vae import OwnVae


class ComposedCheckpoint(Checkpoint):
    """A checkpoint that is another one but for what options replace in it.

    Args:
        base: The other one.
        vae: The image decoder; None: its own.
        lora: What is fused into the weights of its denoiser and text encoders; None: nothing.
    """

    def __init__(self, base: Checkpoint, vae: OwnVae | None, lora: FusedLora | None) -> None:
        super().__init__(base.folder)
        self.base = base
        self.vae = vae
        self.lora = lora

    @property
    def key(self) -> Hashable:
        """Those of all that it is made of."""
        return self.base.key, self.vae and self.vae.key, self.lora and self.lora.key

    @property
    def place(self) -> str:
        """That of the other one, and of the VAE."""
        own = "" if self.vae is None else f" (with the VAE of {self.vae.file or self.vae.folder})"
        return f"{self.base.place}{own}"

    def _part(self, part: str) -> tuple[Any, Path]:
        if part == "vae" and self.vae is not None:
            return self.vae.part_class, self.vae.folder
        return super()._part(part)

    def _network(self, part: str, part_class: Any, dtype: torch.dtype) -> nn.Module:
        if part == "vae" and self.vae is not None:
            return self.vae.load(dtype)
        network = self.base._network(part, part_class, dtype)
        if part != "vae" and self.lora is not None:
            architecture = self.architecture
            config = self.config(architecture.denoiser_part)
            self.lora.fuse(network, part, architecture, config)
        return network

    def weights_hash(self, parts: Sequence[str]) -> str:
        """SHA-256 of the base's hash and the digests of what was replaced or added."""
        if self.vae is not None:
            parts = [part for part in parts if part != "vae"]
        digest = hashlib.sha256(self.base.weights_hash(parts).encode())
        for what, added in (("vae", self.vae), ("lora", self.lora)):
            if added is not None:
                digest.update(what.encode())
                for one in added.digests:
                    digest.update(one)
        return digest.hexdigest()


def composed(checkpoint: Checkpoint, options: ModelOptions) -> Checkpoint:
    """The checkpoint as the options want it.

    Raises:
        InvalidInputError: An option names nothing that can be what it shall be.
        ModelLoadError: What it names is not there.
    """
    vae = lora = None
    if options.vae is not None:
        own = checkpoint.folder / "vae"
        vae = OwnVae.find(options.vae, own, options.variant, hub.vae_folder)
    if options.lora_weights is not None:
        lora = FusedLora.find(options.lora_weights, options.lora_scale, hub.lora_folder)
    if vae is None and lora is None:
        return checkpoint
    return ComposedCheckpoint(checkpoint, vae, lora)
