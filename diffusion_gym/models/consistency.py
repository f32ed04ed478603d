"""Do the parts of a checkpoint fit together, and is it of the kind that is supported?"""

from collections.abc import Iterator, Mapping
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
    problems = [
        *_denoiser_problems(config, decoder),
        *checkpoint.architecture.problems(config, texts.encoders),
        *(problem for encoder in texts.encoders for problem in _tokenizer_problems(encoder)),
    ]
    if problems:
        raise ModelLoadError(
            f"the parts of the model in {checkpoint.place} do not fit together: {problems[0]}"
        )


def _denoiser_problems(config: Mapping[str, Any], decoder: Decoder) -> Iterator[str]:
    channels = decoder.latent_channels
    inputs = config.get("in_channels")
    outputs = config.get("out_channels", inputs)
    if (inputs, outputs) != (channels, channels):
        yield (
            f"expected a denoiser from and to the {channels} latent channels of the vae, got "
            f"in_channels={inputs}, out_channels={outputs}"
        )
    if config.get("sample_size") is None:
        yield "expected a denoiser that states its sample_size, got none"
    if decoder.vae.config.get("latents_mean") is not None:
        yield (
            "expected a vae whose latents are scaled by one number, got "
            f"latents_mean={decoder.vae.config.latents_mean}"
        )


def _tokenizer_problems(encoder: TextEncoder) -> Iterator[str]:
    config, tokenizer = encoder.network.config, encoder.tokenizer
    longest = config.to_dict().get("max_position_embeddings")  # T5 has none: any length will do
    if longest is not None and tokenizer.model_max_length > longest:
        yield (
            f"expected a tokenizer that pads to at most the {longest} tokens that the "
            f"text_encoder reads, got model_max_length={tokenizer.model_max_length}"
        )
    if len(tokenizer) > config.vocab_size:
        yield (
            f"expected a tokenizer of at most the {config.vocab_size} tokens that the "
            f"text_encoder knows, got {len(tokenizer)}"
        )
