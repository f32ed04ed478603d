"""Stage 3: the verifier, which reads a picture back into the facts of its scene.

A third of its pictures went through the autoencoder with noise on the latents, and all are blurred
and brightened at random, so that it reads the denoiser's pictures as well as rendered ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from benchmarks.emoji64.composer import IMAGE_SIZE
from benchmarks.emoji64.networks import frozen, new_verifier
from benchmarks.emoji64.pictures import Pictures, from_bytes, to_bytes, to_network_range
from benchmarks.emoji64.scenes import SceneBatch, concatenate
from benchmarks.emoji64.training import Machine, StageSettings, TrainingReport, train
from diffusion_gym.emoji64.verifier import SceneMaps, SceneVerifier

CELLS = 16
IGNORED = -100
MAX_LATENT_NOISE = 0.4
RECONSTRUCTION_BATCH = 2048
TARGET_BATCH = 8192


@dataclass(frozen=True, kw_only=True)
class VerifierSettings(StageSettings):
    """Settings of the full scale."""

    seconds: float = 85.0
    batch_size: int = 512
    peak_rate: float = 2e-3
    weight_decay: float = 0.02


class Targets(NamedTuple):
    """What the verifier shall say, in small integers because a cache holds very many.

    Attributes:
        objectness: 1 in the cell of an object's centre, -1 (ignored) around it, 0 elsewhere,
            ``[N, 16, 16]``.
        classes: Object in the 3x3 cells around its centre, `IGNORED` elsewhere, ``[N, 16, 16]``.
        styles: Style in the same cells.
        backgrounds: Colour, ``[N]``.
    """

    objectness: Tensor
    classes: Tensor
    styles: Tensor
    backgrounds: Tensor

    def rows(self, rows: Tensor) -> "Targets":
        """The targets of some pictures, in the types that losses take."""
        return Targets(
            self.objectness[rows].float(),
            self.classes[rows].long(),
            self.styles[rows].long(),
            self.backgrounds[rows],
        )


def make_targets(scenes: SceneBatch) -> Targets:
    """Builds the targets of a batch of scenes."""
    objects, styles, present = scenes.sprites()
    number, device = len(scenes), objects.device
    rows = torch.arange(number, device=device)[:, None].expand_as(objects)[present]
    column = _cell(scenes.x)[present]
    line = _cell(scenes.y)[present]
    grid = (number, CELLS, CELLS)
    objectness = torch.zeros(grid, dtype=torch.int8, device=device)
    class_map = torch.full(grid, IGNORED, dtype=torch.int16, device=device)
    style_map = torch.full(grid, IGNORED, dtype=torch.int8, device=device)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            around = (
                rows,
                (line + down).clamp(0, CELLS - 1),
                (column + right).clamp(0, CELLS - 1),
            )
            class_map[around] = objects[present].short()
            style_map[around] = styles[present].to(torch.int8)
            objectness[around] = -1
    objectness[rows, line, column] = 1
    return Targets(objectness, class_map, style_map, scenes.background)


def _cell(position: Tensor) -> Tensor:
    """The cell, per axis, in which a position in pixels lies."""
    return (position * CELLS / IMAGE_SIZE).floor().long().clamp(0, CELLS - 1)


def focal_loss(logits: Tensor, objectness: Tensor) -> Tensor:
    """Focal loss (arXiv 1708.02002, gamma 2) per object; cells marked -1 are ignored."""
    probability = logits.sigmoid()
    centre = (1 - probability).square() * functional.softplus(-logits)
    elsewhere = probability.square() * functional.softplus(logits)
    is_centre, is_elsewhere = objectness > 0.5, objectness > -0.5
    losses = torch.where(is_centre, centre, torch.where(is_elsewhere, elsewhere, 0.0))
    return losses.sum() / is_centre.sum()


def verifier_losses(maps: SceneMaps, targets: Targets) -> dict[str, Tensor]:
    """The weighted sum ("loss") and its parts."""
    objectness = focal_loss(maps.objectness.float(), targets.objectness)
    classes = functional.cross_entropy(
        maps.classes.float(), targets.classes, ignore_index=IGNORED, label_smoothing=0.02
    )
    styles = functional.cross_entropy(maps.styles.float(), targets.styles, ignore_index=IGNORED)
    backgrounds = functional.cross_entropy(maps.backgrounds.float(), targets.backgrounds)
    return {
        "loss": 2 * objectness + classes + 0.5 * styles + 0.3 * backgrounds,
        "objectness": objectness,
        "classes": classes,
        "styles": styles,
        "backgrounds": backgrounds,
    }


def augment(images: Tensor) -> Tensor:
    """Blurs, sharpens or brightens each picture, changes its contrast and adds noise.

    Args:
        images: ``[B, 3, 64, 64]`` in [0, 1]; the result may leave that range a little.
    """

    def per_picture() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, device=images.device)

    # The binomial kernel (1, 2, 1) / 4 on both axes, without a tensor copied from the host.
    weights = 2 - (torch.arange(3, device=images.device) - 1.0).abs()
    kernel = (weights[:, None] * weights[None, :] / 16).expand(3, 1, 3, 3)
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    blurred = functional.conv2d(padded, kernel, groups=3)
    strength = (1.6 * per_picture() - 0.6).clamp(0, 1)
    images = images + strength * (blurred - images)
    contrast = 1 + 0.16 * (per_picture() - 0.5)
    brightness = 0.06 * (per_picture() - 0.5)
    noise = 0.05 * per_picture() * per_picture() * torch.randn_like(images)
    return 0.5 + (images - 0.5) * contrast + brightness + noise


@torch.no_grad()
def add_reconstructions(
    pictures: Pictures, autoencoder: AutoencoderTiny, machine: Machine
) -> Pictures:
    """Adds half as many pictures again, decoded from latents with noise of up to 0.4."""
    rows = torch.arange(0, len(pictures), 2, device=machine.device)
    pixels = []
    for chunk in rows.split(RECONSTRUCTION_BATCH):
        images = to_network_range(from_bytes(pictures.pixels[chunk]))
        with machine.half_precision():
            latents = autoencoder.encode(images).latents
            deviation = MAX_LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, device=machine.device)
            noisy = latents + deviation * torch.randn_like(latents)
            decoded = autoencoder.decode(noisy).sample
        pixels.append(to_bytes((decoded.float() + 1) / 2))
    return Pictures(
        torch.cat([pictures.pixels, *pixels]),
        concatenate([pictures.scenes, pictures.scenes[rows]]),
    )


def train_verifier(
    pictures: Pictures,
    autoencoder: AutoencoderTiny,
    settings: VerifierSettings,
    machine: Machine,
) -> tuple[SceneVerifier, TrainingReport]:
    """Trains a verifier on cached pictures and on their reconstructions."""
    pictures = add_reconstructions(pictures, autoencoder, machine)
    chunks = torch.arange(len(pictures), device=machine.device).split(TARGET_BATCH)
    parts = [make_targets(pictures.scenes[chunk]) for chunk in chunks]
    targets = Targets(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    verifier = machine.place(new_verifier())
    forward = machine.compiled(verifier)

    def loss_function() -> dict[str, Tensor]:
        rows = torch.randint(len(pictures), (settings.batch_size,), device=machine.device)
        images = augment(from_bytes(pictures.pixels[rows]))
        with machine.training_precision():
            maps = forward(images.contiguous(memory_format=torch.channels_last))
        return verifier_losses(maps, targets.rows(rows))

    report = train("verifier", verifier, loss_function, settings, machine)
    return frozen(verifier), report
