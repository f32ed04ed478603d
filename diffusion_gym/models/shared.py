"""Frozen networks, loaded at most once per process."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import nn

from diffusion_gym.models.checkpoint import Checkpoint
from diffusion_gym.models.decoder import Decoder, decoder_dtype
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.precision import resolve_dtype
from diffusion_gym.models.text_encoders import TextEncoder, TextEncoders

T = TypeVar("T")

_shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def shared(key: Hashable, make: Callable[[], T]) -> T:
    """What was made for the key, if somebody still uses it, or else a new one.

    The process-wide table holds it weakly: when the last model that uses it is closed or
    forgotten, its memory is free again.
    """
    value: T | None = _shared.get(key)
    if value is None:
        value = make()
        _shared[key] = value
    return value


def load_text_encoders(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, options: ModelOptions
) -> TextEncoders:
    """The text encoders of a checkpoint, shared with all who use the same."""
    parts = text_encoder_parts(checkpoint, options)

    def make() -> TextEncoders:
        return TextEncoders(
            tuple(
                TextEncoder(
                    network=freeze(checkpoint.network(part, dtype), device),
                    tokenizer=checkpoint.small_part(part.replace("text_encoder", "tokenizer")),
                    part=part,
                )
                for part in parts
            )
        )

    return shared(("text_encoders", checkpoint.key, device, dtype, parts), make)


def text_encoder_parts(checkpoint: Checkpoint, options: ModelOptions) -> tuple[str, ...]:
    """The text encoders that are there and wanted."""
    unwanted = () if options.t5 else checkpoint.architecture.optional_parts
    parts = checkpoint.architecture.text_encoder_parts
    return tuple(part for part in parts if checkpoint.has(part) and part not in unwanted)


def load_decoder(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, options: ModelOptions
) -> Decoder:
    """The image decoder of a checkpoint, shared with all who use the same."""
    if options.vae_dtype is None:
        dtype = decoder_dtype(checkpoint.config("vae"), dtype)
    else:
        dtype = resolve_dtype(options.vae_dtype)

    def make() -> Decoder:
        vae: Any = freeze(checkpoint.network("vae", dtype), device)
        if options.vae_slicing:
            vae.enable_slicing()
        if options.vae_tiling:
            vae.enable_tiling()
        return Decoder(vae, device, dtype)

    memory = (options.vae_slicing, options.vae_tiling)
    return shared(("decoder", checkpoint.key, device, dtype, memory), make)


def freeze(network: nn.Module, device: torch.device) -> nn.Module:
    """Moves a network to a device for inference.

    Convolutions run in the channels-last layout: on a CPU the embedded model's denoiser then
    takes less than half the time, and GPUs' tensor cores want it as well.
    """
    network.requires_grad_(False).eval()
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
