"""Stage 2: CLIP, which scores how well a caption fits a picture."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel

from benchmarks.emoji64.captions import CaptionIds
from benchmarks.emoji64.networks import frozen, image_features, new_clip, text_features
from benchmarks.emoji64.pictures import Pictures, from_bytes, to_network_range
from benchmarks.emoji64.sampling import hard_negatives
from benchmarks.emoji64.scenes import COUNT, SINGLE, SceneBatch
from benchmarks.emoji64.training import Machine, StageSettings, TrainingReport, train

MAX_LOGIT_SCALE = math.log(100)
EXCLUDED = -1e4


@dataclass(frozen=True, kw_only=True)
class ClipSettings(StageSettings):
    """Settings of the full scale."""

    seconds: float = 130.0
    batch_size: int = 2048
    peak_rate: float = 1e-3
    weight_decay: float = 0.02
    second_beta: float = 0.98


def also_fits(scenes: SceneBatch, ids: Tensor) -> Tensor:
    """Which captions fit pictures that are not their own, bool ``[B pictures, B captions]``.

    "A cat" fits every picture of one cat. Such a caption is no negative for that picture. Pairs
    count as fitting only where the captions are equal, which is nearly all of their cases.
    """

    def same(values: Tensor) -> Tensor:
        return values[:, None] == values[None, :]

    shows_one_object = (scenes.kind == SINGLE) | (scenes.kind == COUNT)
    objects_fit = same(scenes.objects[:, 0]) & same(scenes.count)
    style_fits = ~scenes.states_style[None, :, 0] | same(scenes.styles[:, 0])
    background_fits = ~scenes.states_background[None, :] | same(scenes.background)
    fits = objects_fit & style_fits & background_fits
    fits = fits & shows_one_object[:, None] & shows_one_object[None, :]
    equal_captions = (ids[:, None] == ids[None, :]).all(-1)
    own = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    return (fits | equal_captions) & ~own


def contrastive_logits(
    images: Tensor, captions: Tensor, negatives: Tensor, scale: Tensor, excluded: Tensor
) -> tuple[Tensor, Tensor]:
    """Scaled similarities, from pictures to captions and from captions to pictures.

    Args:
        images: Unit vectors of pictures, ``[B, D]``.
        captions: Unit vectors of their captions, ``[B, D]``.
        negatives: Unit vectors of two wrong captions per picture, ``[2, B, D]``.
        scale: CLIP's inverse temperature.
        excluded: Pairs that are neither right nor wrong, bool ``[B, B]``.

    Returns:
        ``[B, B + 2]`` with the hard negatives last, and ``[B, B]``.
    """
    logits = (scale * images @ captions.T).masked_fill(excluded, EXCLUDED)
    hard = scale * (images * negatives).sum(-1).T
    return torch.cat([logits, hard], 1), logits.T


def train_clip(
    pictures: Pictures, settings: ClipSettings, machine: Machine
) -> tuple[CLIPModel, TrainingReport]:
    """Trains CLIP contrastively (arXiv 2103.00020) with two hard negatives per picture."""
    clip = new_clip().to(machine.device)
    caption_ids = CaptionIds(machine.device)
    encode_texts, encode_images = machine.compiled(text_features), machine.compiled(image_features)
    own = torch.arange(settings.batch_size, device=machine.device)

    def loss_function() -> dict[str, Tensor]:
        rows = torch.randint(len(pictures), (settings.batch_size,), device=machine.device)
        scenes = pictures.scenes[rows]
        images = to_network_range(from_bytes(pictures.pixels[rows]))
        ids = caption_ids(scenes)
        wrong_ids = [caption_ids(wrong) for wrong in hard_negatives(scenes)]
        with machine.training_precision():
            image_vectors = encode_images(clip, images)
            vectors = encode_texts(clip, torch.cat([ids, *wrong_ids]))
        captions, *negatives = vectors.chunk(3)
        to_captions, to_images = contrastive_logits(
            image_vectors,
            captions,
            torch.stack(negatives),
            clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp(),
            also_fits(scenes, ids),
        )
        loss = functional.cross_entropy(to_captions, own) + functional.cross_entropy(to_images, own)
        accuracy = (to_captions.argmax(1) == own).float().mean()
        return {"loss": loss / 2, "accuracy": accuracy}

    report = train("clip", clip, loss_function, settings, machine)
    return frozen(clip), report
