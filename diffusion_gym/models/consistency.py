"""Do the parts of a checkpoint fit together, and is it of the kind that is supported?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_gym.errors import ModelLoadError


def check_consistency(folder: Path, components: Any, unet: Mapping[str, Any]) -> None:
    """Refuses checkpoints that would load but could not be used.

    Args:
        folder: The checkpoint, for the message.
        components: Its loaded `FrozenComponents`.
        unet: The denoiser's configuration.

    Raises:
        ModelLoadError: Some part does not fit another, as in models with two text encoders
            (SDXL), inpainting models, or a folder put together from different models.
    """
    for problem in _problems(components, unet):
        raise ModelLoadError(f"the parts of the model in {folder} do not fit together: {problem}")


def _problems(components: Any, unet: Mapping[str, Any]) -> Iterator[str]:
    text = components.text_encoder.config
    tokenizer = components.tokenizer
    channels = components.vae.config.latent_channels
    unet_channels = (unet.get("in_channels"), unet.get("out_channels"))
    if unet_channels != (channels, channels):
        yield (
            f"expected a denoiser from and to the {channels} latent channels of the vae, got "
            f"in_channels={unet_channels[0]}, out_channels={unet_channels[1]}"
        )
    if unet.get("cross_attention_dim") != text.hidden_size:
        yield (
            f"expected a denoiser that reads prompt embeddings of the text_encoder's width "
            f"{text.hidden_size}, got cross_attention_dim={unet.get('cross_attention_dim')} "
            "(models with more than one text encoder are not supported)"
        )
    for option in ("addition_embed_type", "class_embed_type"):
        if unet.get(option) is not None:
            yield (
                "expected a denoiser that is conditioned on timestep and prompt alone, got "
                f"{option}={unet[option]!r}"
            )
    if unet.get("sample_size") is None:
        yield "expected a denoiser that states its sample_size, got none"
    if tokenizer.model_max_length > text.max_position_embeddings:
        yield (
            f"expected a tokenizer that pads to at most the {text.max_position_embeddings} tokens "
            f"that the text_encoder reads, got model_max_length={tokenizer.model_max_length}"
        )
    if len(tokenizer) > text.vocab_size:
        yield (
            f"expected a tokenizer of at most the {text.vocab_size} tokens that the text_encoder "
            f"knows, got {len(tokenizer)}"
        )
