"""Do the parts of a checkpoint fit together, and is it of the kind that is supported?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.models.checkpoint import Checkpoint
from diffusion_gym.models.decoder import Decoder
from diffusion_gym.models.text_encoders import TextEncoder, TextEncoders


def check_consistency(
    checkpoint: Checkpoint, config: Mapping[str, Any], texts: TextEncoders, decoder: Decoder
) -> None:
    """Refuses checkpoints that would load but could not be used.

    Args:
        checkpoint: The checkpoint.
        config: Its denoiser's configuration.
        texts: Its text encoders.
        decoder: Its image decoder.

    Raises:
        ModelLoadError: Some part does not fit another, as in inpainting models, or a folder put
            together from different models.
    """
    malformed = [
        *_malformed_numbers(config, ("in_channels", *checkpoint.architecture.sizes)),
        *_malformed_decoder(decoder),
        *_malformed_index(checkpoint.index),
        *(problem for encoder in texts.encoders for problem in _malformed_clip(encoder)),
    ]
    if malformed:
        raise ModelLoadError(f"the model in {checkpoint.place} cannot be used: {malformed[0]}")
    problems = [
        *_denoiser_problems(config, decoder),
        *checkpoint.architecture.problems(config, texts.encoders),
        *(problem for encoder in texts.encoders for problem in _tokenizer_problems(encoder)),
    ]
    if problems:
        raise ModelLoadError(
            f"the parts of the model in {checkpoint.place} do not fit together: {problems[0]}"
        )


def _is_size(value: object) -> bool:
    """Is it a whole number above 0?"""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _malformed_numbers(config: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if not _is_size(config.get(name)):
            yield (
                f"expected a denoiser whose {name} is a whole number above 0, got "
                f"{config.get(name)!r}"
            )
    size = config.get("sample_size")
    lengths = size if isinstance(size, list | tuple) and len(size) == 2 else [size]
    if not all(_is_size(length) for length in lengths):
        yield (
            "expected a denoiser that states its sample_size, a whole number above 0 or two, got "
            f"{size!r}"
        )


def _malformed_decoder(decoder: Decoder) -> Iterator[str]:
    config = decoder.vae.config
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    if not _is_finite(scale) or scale <= 0:
        yield f"expected a vae whose scaling_factor is a number above 0, got {scale!r}"
    if shift is not None and not _is_finite(shift):
        yield f"expected a vae whose shift_factor is a number, or not there, got {shift!r}"

    factor = config.get("upsampling_scaling_factor", 2)  # of AutoencoderTiny
    if factor != 2:
        yield f"expected a vae that doubles its resolution at every level, got a factor {factor!r}"
    method = config.get("upsample_fn", "nearest")
    if method not in INTERPOLATIONS:
        yield f"expected a vae whose upsample_fn is of {', '.join(INTERPOLATIONS)}, got {method!r}"


INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
"""How torch enlarges pictures."""


def _malformed_index(index: Mapping[str, Any]) -> Iterator[str]:
    zeros = index.get("force_zeros_for_empty_prompt", True)
    if not isinstance(zeros, bool):
        yield (
            "expected model_index.json to say true or false of force_zeros_for_empty_prompt, got "
            f"{zeros!r}"
        )


def _is_finite(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _denoiser_problems(config: Mapping[str, Any], decoder: Decoder) -> Iterator[str]:
    channels = decoder.latent_channels
    inputs = config.get("in_channels")
    outputs = config.get("out_channels", inputs)
    if (inputs, outputs) != (channels, channels):
        yield (
            f"expected a denoiser from and to the {channels} latent channels of the vae, got "
            f"in_channels={inputs}, out_channels={outputs}"
        )
    if decoder.vae.config.get("latents_mean") is not None:
        yield (
            "expected a vae whose latents are scaled by one number, got "
            f"latents_mean={decoder.vae.config.latents_mean}"
        )


def _malformed_clip(encoder: TextEncoder) -> Iterator[str]:
    config = encoder.network.config
    if config.model_type != "clip_text_model":
        return
    for name in ("eos_token_id", "num_attention_heads"):
        if not _is_size(getattr(config, name)):
            yield (
                f"expected a {encoder.part} whose {name} is a whole number above 0, got "
                f"{getattr(config, name)!r}"
            )
    if not _is_finite(config.layer_norm_eps):
        yield (
            f"expected a {encoder.part} whose layer_norm_eps is a number, got "
            f"{config.layer_norm_eps!r}"
        )


def _tokenizer_problems(encoder: TextEncoder) -> Iterator[str]:
    config, tokenizer = encoder.network.config, encoder.tokenizer
    if tokenizer.pad_token_id is None:
        yield f"expected a tokenizer for {encoder.part} with a token to pad with, got none"
    longest = config.to_dict().get("max_position_embeddings")  # T5 has none: any length will do
    length = tokenizer.model_max_length
    if longest is not None and not (_is_size(length) and 2 < length <= longest):
        yield (
            f"expected a tokenizer that pads to at most the {longest} tokens that the "
            f"{encoder.part} reads, got model_max_length={length!r}"
        )
    if len(tokenizer) > config.vocab_size:
        yield (
            f"expected a tokenizer of at most the {config.vocab_size} tokens that the "
            f"{encoder.part} knows, got {len(tokenizer)}"
        )
