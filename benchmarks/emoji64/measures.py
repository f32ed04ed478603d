"""What the networks can do, measured on fresh scenes that none of them was trained on."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from transformers import CLIPModel

from benchmarks.emoji64.captions import CaptionIds
from benchmarks.emoji64.composer import Composer
from benchmarks.emoji64.networks import image_features, text_features
from benchmarks.emoji64.pictures import to_network_range
from benchmarks.emoji64.sampling import hard_negatives, sample_scenes
from benchmarks.emoji64.scenes import COUNT, RELATION
from benchmarks.emoji64.train_clip import also_fits
from diffusion_gym.emoji64.facts import FACTS
from diffusion_gym.emoji64.scenes import KINDS, Scene
from diffusion_gym.emoji64.verifier import SceneVerifier

BATCH = 128
ALL = "all"

Figures = dict[str, float]


@torch.no_grad()
def _encoded(autoencoder: AutoencoderTiny, images: Tensor) -> Tensor:
    """Latents of pictures in [0, 1]."""
    chunks = to_network_range(images).split(BATCH)
    return torch.cat([autoencoder.encode(chunk).latents for chunk in chunks])


@torch.no_grad()
def _decoded(autoencoder: AutoencoderTiny, latents: Tensor) -> Tensor:
    """Pictures in [0, 1] of latents."""
    images = [autoencoder.decode(chunk).sample for chunk in latents.split(BATCH)]
    return ((torch.cat(images) + 1) / 2).clamp(0, 1)


def psnr(images: Tensor, others: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [0, 1], in dB."""
    return -10 * math.log10((images - others).square().mean().item())


def measure_autoencoder(
    autoencoder: AutoencoderTiny, composer: Composer, number: int, generator: torch.Generator
) -> Figures:
    """PSNR of reconstructions, and the latents' statistics."""
    figures = {}
    for layout in ("grid", "free"):
        scenes = sample_scenes(
            number, free=layout == "free", device=composer.device, generator=generator
        )
        images = composer.render(scenes)
        latents = _encoded(autoencoder, images)
        figures[f"PSNR, {layout} scenes, dB"] = psnr(images, _decoded(autoencoder, latents))
        if layout == "grid":
            means, deviations = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
            figures["largest channel mean"] = means.abs().max().item()
            figures["smallest channel deviation"] = deviations.min().item()
            figures["largest channel deviation"] = deviations.max().item()
            figures["largest value"] = latents.abs().max().item()
    return figures


@torch.no_grad()
def features_of_images(clip: CLIPModel, images: Tensor) -> Tensor:
    """Unit vectors of pictures in [0, 1], ``[B, 128]``."""
    chunks = to_network_range(images).split(BATCH)
    return torch.cat([image_features(clip, chunk) for chunk in chunks])


@torch.no_grad()
def measure_clip(
    clip: CLIPModel, composer: Composer, number: int, generator: torch.Generator
) -> Figures:
    """How well CLIP tells right captions from wrong ones."""
    scenes = sample_scenes(number, device=composer.device, generator=generator)
    caption_ids = CaptionIds(composer.device)
    ids = caption_ids(scenes)
    images = features_of_images(clip, composer.render(scenes))
    captions = text_features(clip, ids)
    own = (images * captions).sum(-1)
    structure, attribute = (
        (images * text_features(clip, caption_ids(wrong))).sum(-1)
        for wrong in hard_negatives(scenes, generator=generator)
    )
    similarities = images @ captions.T
    retrieved = similarities.argmax(1)
    rows = torch.arange(number, device=composer.device)
    fits = also_fits(scenes, ids)
    strangers = ~fits & (rows[:, None] != rows[None, :])
    is_relation, is_count = scenes.kind == RELATION, scenes.kind == COUNT
    shares = {
        "retrieval of a caption that fits": (retrieved == rows) | fits[rows, retrieved],
        "retrieval of exactly its own": retrieved == rows,
        "prefers its own to the opposite relation": (own > structure)[is_relation],
        "prefers its own to a wrong count": (own > structure)[is_count],
        "prefers its own to a wrong attribute": own > attribute,
    }
    return {
        "score with its own caption": own.mean().item(),
        "score with a caption that does not fit": similarities[strangers].mean().item(),
        **{name: share.float().mean().item() for name, share in shares.items()},
    }


def shares_of_facts(checked: Sequence[Mapping[str, bool]], scenes: Sequence[Scene]) -> Figures:
    """Share of pictures with all facts right, over all and per kind, and of each right fact.

    Args:
        checked: `SceneVerifier.check` of each picture.
        scenes: What each picture was to show.
    """
    outcomes = defaultdict(list)
    for facts, scene in zip(checked, scenes, strict=True):
        is_right = all(facts.values())
        for name, value in {ALL: is_right, f"{ALL}, {scene.kind}": is_right, **facts}.items():
            outcomes[name].append(value)
    order = (ALL, *(f"{ALL}, {kind}" for kind in KINDS), *FACTS)
    return {name: sum(outcomes[name]) / len(outcomes[name]) for name in order if name in outcomes}


def check_images(
    verifier: SceneVerifier, images: Tensor, scenes: Iterable[Scene]
) -> list[dict[str, bool]]:
    """Facts of each scene that its picture, in [0, 1], shows or does not show."""
    found = [scene for chunk in images.split(BATCH) for scene in verifier.detect(chunk)]
    return [
        verifier.check(detected, wanted) for detected, wanted in zip(found, scenes, strict=True)
    ]


def measure_verifier(
    verifier: SceneVerifier,
    autoencoder: AutoencoderTiny,
    composer: Composer,
    number: int,
    generator: torch.Generator,
) -> dict[str, Figures]:
    """Accuracy on rendered and on reconstructed scenes, for every fact whether stated or not."""
    figures = {}
    for layout in ("grid", "free"):
        batch = sample_scenes(
            number, free=layout == "free", device=composer.device, generator=generator
        )
        scenes = batch.to_scenes(complete=True)
        images = composer.render(batch)
        rebuilt = _decoded(autoencoder, _encoded(autoencoder, images))
        for name, pictures in ((layout, images), (f"{layout}, reconstructed", rebuilt)):
            checked = check_images(verifier, pictures, scenes)
            figures[name] = shares_of_facts(checked, scenes)
    return figures
