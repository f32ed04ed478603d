"""One calling convention over the denoising networks of diffusers."""

from typing import Any

import torch
from torch import Tensor, nn

from diffusion_gym.models.embedding import PromptEmbedding


class Denoiser(nn.Module):
    """A denoising network called with latents, timesteps and embedded prompts.

    This class serves networks conditioned on timestep and hidden states alone (Stable Diffusion
    1.x and 2.x); the others have a class of their own below.

    Attributes:
        network: The network as diffusers defines it, for adapters and for ``save_pretrained``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Any: diffusers has no types, and what its networks have differs.
        self.network: Any = network

    def forward(self, latents: Tensor, timesteps: Tensor, embedding: PromptEmbedding) -> Tensor:
        """What the network predicts: noise, velocity or sample, as its scheduler says.

        Args:
            latents: Noisy latents, ``[B, C, h, w]``.
            timesteps: Training timestep of every row, ``[B]``.
            embedding: Embedded prompts of B rows.

        Returns:
            The prediction, ``[B, C, h, w]``.
        """
        output: Tensor = self.network(latents, timesteps, embedding.tokens, return_dict=False)[0]
        return output


class DenoiserXL(Denoiser):
    """Stable Diffusion XL's UNet, also told the pooled embedding and the picture's geometry.

    Its time ids (arXiv 2307.01952, section 2.2) say "a picture of this size, not cropped", as
    diffusers' pipeline does where its caller names nothing else.

    Args:
        network: The UNet.
        image_size: Height and width of the pictures, in pixels.
    """

    time_ids: Tensor

    def __init__(self, network: nn.Module, image_size: tuple[int, int]) -> None:
        super().__init__(network)
        time_ids = torch.tensor([[*image_size, 0.0, 0.0, *image_size]])
        self.register_buffer("time_ids", time_ids, persistent=False)

    def forward(self, latents: Tensor, timesteps: Tensor, embedding: PromptEmbedding) -> Tensor:
        """As `Denoiser.forward`; the embedding has a pooled part."""
        conditions = {
            "text_embeds": embedding.pooled,
            "time_ids": self.time_ids.expand(len(latents), -1),
        }
        output: Tensor = self.network(
            latents,
            timesteps,
            embedding.tokens,
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return output


class Denoiser3(Denoiser):
    """Stable Diffusion 3's transformer, which predicts a flow's velocity (arXiv 2403.03206)."""

    def forward(self, latents: Tensor, timesteps: Tensor, embedding: PromptEmbedding) -> Tensor:
        """As `Denoiser.forward`; the embedding has a pooled part."""
        output: Tensor = self.network(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=embedding.tokens,
            pooled_projections=embedding.pooled,
            return_dict=False,
        )[0]
        return output
