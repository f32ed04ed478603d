"""Stage 1: the autoencoder, from pixels to latents that bear noise, and back."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from benchmarks.emoji64.networks import frozen, new_autoencoder
from benchmarks.emoji64.pictures import Pictures, from_bytes, to_network_range
from benchmarks.emoji64.training import Machine, StageSettings, TrainingReport, train

LATENT_NOISE = 0.08


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(StageSettings):
    """Settings of the full scale."""

    seconds: float = 250.0
    batch_size: int = 256
    peak_rate: float = 2e-3


class _NoisyAutoencoder(nn.Module):
    """Encodes, adds noise to the latents, decodes."""

    def __init__(self, autoencoder: AutoencoderTiny) -> None:
        super().__init__()
        self.encoder = autoencoder.encoder
        self.decoder = autoencoder.decoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.encoder(images)
        noisy = latents + LATENT_NOISE * torch.randn_like(latents)
        return self.decoder(noisy), latents


def reconstruction_loss(images: Tensor, decoded: Tensor) -> Tensor:
    """``.5 L1 + 4 MSE + .25 L1 of the differences of neighbouring pixels`` (sharp edges)."""
    error = decoded - images
    horizontal = error[..., 1:] - error[..., :-1]
    vertical = error[..., 1:, :] - error[..., :-1, :]
    edges = horizontal.abs().mean() + vertical.abs().mean()
    return 0.5 * error.abs().mean() + 4 * error.square().mean() + 0.25 * edges


def latent_loss(latents: Tensor) -> Tensor:
    """Pulls each channel of latents ``[B, C, h, w]`` towards mean 0 and deviation 1."""
    mean = latents.mean((0, 2, 3))
    deviation = latents.std((0, 2, 3))
    return 0.03 * (mean.square().mean() + (deviation - 1).square().mean())


def train_autoencoder(
    pictures: Pictures, settings: AutoencoderSettings, machine: Machine
) -> tuple[AutoencoderTiny, TrainingReport]:
    """Trains an autoencoder on cached pictures."""
    autoencoder = machine.place(new_autoencoder())
    network = _NoisyAutoencoder(autoencoder)
    forward = machine.compiled(network)

    def loss_function() -> dict[str, Tensor]:
        rows = torch.randint(len(pictures), (settings.batch_size,), device=machine.device)
        images = to_network_range(from_bytes(pictures.pixels[rows]))
        with machine.training_precision():
            decoded, latents = forward(images)
        decoded, latents = decoded.float(), latents.float()
        loss = reconstruction_loss(images, decoded) + latent_loss(latents)
        return {"loss": loss, "mse": (decoded - images).square().mean()}

    report = train("autoencoder", network, loss_function, settings, machine)
    return frozen(autoencoder), report
