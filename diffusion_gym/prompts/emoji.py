"""Prompts that the embedded model understands: bare objects, and captions of its whole grammar."""

import functools
import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

from diffusion_gym.emoji64.scenes import (
    BACKGROUNDS,
    COUNTS,
    KINDS,
    OBJECTS,
    RELATIONS,
    STYLES,
    Kind,
    Scene,
    StatedObject,
    article,
    caption,
)
from diffusion_gym.prompts.prompt_set import PromptSet

_Choice = TypeVar("_Choice")


@functools.cache
def emoji_objects() -> PromptSet:
    """Every countable object by its bare name; of each kind a quarter is held out."""
    kinds: dict[str, list[str]] = {}
    for index, item in enumerate(OBJECTS):
        if item.countable:
            kinds.setdefault(item.kind, []).append(f"{article(index)} {item.name}")
    held_out = {
        text for texts in kinds.values() for text in sorted(texts, key=_digest)[: len(texts) // 4]
    }
    everything = [text for texts in kinds.values() for text in texts]
    return PromptSet(
        "emoji-objects",
        tuple(text for text in everything if text not in held_out),
        tuple(text for text in everything if text in held_out),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def emoji_captions() -> PromptSet:
    """Captions of the whole grammar: 64 held out of each kind, and 512 as frequent as in training.

    The embedded model was trained on 35% single objects, 15% pairs, 35% relations, 15% counts.
    """
    rng = random.Random(64)
    held_out: dict[str, None] = {}
    for kind in KINDS:
        goal = len(held_out) + 64
        while len(held_out) < goal:
            held_out[_draw_caption(rng, kind)] = None
    train: dict[str, None] = {}
    while len(train) < 512:
        share = rng.random()
        kind = KINDS[sum(share >= limit for limit in (0.35, 0.50, 0.85))]
        text = _draw_caption(rng, kind)
        if text not in held_out:
            train[text] = None
    return PromptSet("emoji-captions", tuple(train), tuple(held_out))


def _draw_caption(rng: random.Random, kind: Kind) -> str:
    """Draws a caption as the embedded model's training did; states half of styles, backgrounds."""
    indices = [index for index, item in enumerate(OBJECTS) if kind != "count" or item.countable]
    first = _pick(rng, indices)
    second = _pick(rng, [index for index in indices if index != first])
    drawn = (first, second) if kind in ("and", "relation") else (first,)
    objects = tuple(StatedObject(index, _half_the_time(rng, tuple(STYLES))) for index in drawn)
    count = _pick(rng, tuple(COUNTS)) if kind == "count" else len(objects)
    relation = _pick(rng, RELATIONS) if kind == "relation" else None
    return caption(Scene(kind, objects, count, relation, _half_the_time(rng, tuple(BACKGROUNDS))))


def _half_the_time(rng: random.Random, choices: Sequence[_Choice]) -> _Choice | None:
    return _pick(rng, choices) if rng.random() < 0.5 else None


def _pick(rng: random.Random, choices: Sequence[_Choice]) -> _Choice:
    # Only random() is promised to give the same numbers in every version of Python.
    return choices[int(rng.random() * len(choices))]
