"""From latents to images."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DECODE_BATCH = 32
"""Images decoded at once at most; larger batches are slower on a CPU."""

DECODE_PIXELS = 2**20
"""Pixels decoded at once, unless it is one image: at 512×512, four images fill a GPU."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """The frozen autoencoder of one checkpoint on one device in one precision.

    Attributes:
        vae: From diffusers.
        device: Where it runs.
        dtype: Its precision.
    """

    vae: Any
    device: torch.device
    dtype: torch.dtype

    @property
    def latent_channels(self) -> int:
        """C of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def scaling_factor(self) -> float:
        """What latents are divided by before they are decoded."""
        return float(self.vae.config.scaling_factor)

    @property
    def shift_factor(self) -> float:
        """What is added to latents before they are decoded (0 for all but the newest models)."""
        return float(self.vae.config.get("shift_factor") or 0.0)

    @property
    def upscaling(self) -> int:
        """Pixels per latent cell and axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents ``[B, C, h, w]`` to images ``[B, 3, H, W]``, float32 in [0, 1].

        An image that overflows the decoder's precision has NaN in it; see `failed_images`.
        """
        scaled = latents.to(self.device, self.dtype) / self.scaling_factor + self.shift_factor
        pixels = latents.shape[-2] * latents.shape[-1] * self.upscaling**2
        batch = min(DECODE_BATCH, max(1, DECODE_PIXELS // pixels))
        images = [
            self.vae.decode(chunk, return_dict=False)[0].float()
            for chunk in torch.split(scaled, batch)
        ]
        pixels_of_all = torch.cat(images)
        # An infinite value would be clamped to a white or black pixel that nobody would notice.
        pixels_of_all = pixels_of_all.masked_fill(pixels_of_all.isinf(), torch.nan)
        return (pixels_of_all / 2 + 0.5).clamp(0, 1)

    def failure(self, images: Tensor) -> str | None:
        """What to tell the user of images that could not be decoded; None if all could.

        Args:
            images: From `decode`, ``[B, 3, H, W]``.
        """
        failed = int(failed_images(images).sum())
        if not failed:
            return None
        name = str(self.dtype).removeprefix("torch.")
        advice = (
            "the latents themselves may be NaN or beyond what it was trained on"
            if self.dtype == torch.float32
            else "try model_options={'vae_dtype': 'float32'}"
        )
        return (
            f"the image decoder gave NaN for {failed} of {len(images)} images, in {name}: {advice}"
        )


def failed_images(images: Tensor) -> Tensor:
    """Which of the images ``[B, 3, H, W]`` are not finite everywhere: bool ``[B]``."""
    return ~images.isfinite().flatten(1).all(1)


def decoder_dtype(config: dict[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The precision to decode in where none is asked for.

    Args:
        config: The autoencoder's.
        dtype: That of the other networks.

    Returns:
        The same, but float32 instead of float16 where the configuration says, by
        ``force_upcast``, that values grow beyond what float16 holds.
    """
    if dtype == torch.float16 and config.get("force_upcast", True):
        return torch.float32
    return dtype
