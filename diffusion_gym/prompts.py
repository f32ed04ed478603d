"""Prompt sets: which texts the pictures are drawn for."""

import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.scenes import (
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

SPLITS = ("train", "held_out")
"""What can follow a set's name after a colon; the first is the default."""

_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Prompts(Sequence[str]):
    """A list of different prompts.

    Attributes:
        name: Where it comes from, for logs and files.
        texts: The prompts.

    Raises:
        InvalidInputError: There is no prompt, or one is empty, no text, or there twice.
    """

    name: str
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Checks the texts."""
        if not self.texts:
            raise InvalidInputError(f"{self.name} must hold at least one prompt, got none")
        for position, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                raise InvalidInputError(
                    f"{self.name}: prompt {position} must be a text that is not empty, got {text!r}"
                )
        twice = [text for text, times in Counter(self.texts).items() if times > 1]
        if twice:
            raise InvalidInputError(f"{self.name}: prompts must differ, got twice or more: {twice}")

    @property
    def content_hash(self) -> str:
        """SHA-256 of the texts and their order, as hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.texts[index]


@dataclass(frozen=True)
class PromptSet:
    """Prompts to train on, and prompts to test on that were never trained on.

    Attributes:
        name: The set's name.
        train: Prompts for training.
        held_out: Prompts for testing; may be empty.

    Raises:
        InvalidInputError: A prompt is in both.
    """

    name: str
    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that nothing is tested that was trained."""
        both = sorted(set(self.train) & set(self.held_out))
        if both:
            raise InvalidInputError(f"{self.name}: train and held_out share {both}")

    def split(self, split: str) -> Prompts:
        """Returns one part, "train" or "held_out"."""
        texts = {"train": self.train, "held_out": self.held_out}
        return Prompts(f"{self.name}:{split}", texts[split])


def prompt_set_names() -> tuple[str, ...]:
    """Returns the names of the built-in prompt sets, sorted."""
    return tuple(sorted(_BUILT_IN))


def load_prompts(spec: str | Sequence[str]) -> Prompts:
    """Loads prompts.

    Args:
        spec: The name of a built-in set; or the path of a ``.txt`` file with one prompt per line
            (empty lines are skipped) or of a ``.json`` file that holds a list of prompts or an
            object with the lists "train" and "held_out"; or the prompts themselves. After a name or
            a path, ":train" (the default) or ":held_out" chooses the part.

    Raises:
        InvalidInputError: The set or file does not exist, or does not hold different prompts that
            are not empty.
    """
    if not isinstance(spec, str):
        return Prompts("list", tuple(spec))
    source, colon, split = spec.rpartition(":")
    if not colon or split not in SPLITS:
        source, split = spec, SPLITS[0]
    if source in _BUILT_IN:
        return _BUILT_IN[source]().split(split)
    if Path(source).suffix in (".txt", ".json"):
        return _read_file(Path(source)).split(split)
    known = ", ".join(f"{name}[:held_out]" for name in prompt_set_names())
    raise unknown_name(
        "prompt set", spec, [known, "the path of a .txt or .json file", "or a list of texts"]
    )


def _read_file(file: Path) -> PromptSet:
    if not file.is_file():
        raise InvalidInputError(f"the prompt file {file} does not exist")
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".txt":
        return PromptSet(
            str(file), tuple(line.strip() for line in text.splitlines() if line.strip())
        )
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"the prompt file {file} is not valid JSON: {error}") from error
    if isinstance(content, list):
        content = {"train": content}
    if not isinstance(content, dict) or not _is_set(content):
        raise InvalidInputError(
            f"the prompt file {file} must hold a list of prompts or an object with the lists "
            f"'train' and, if there are any, 'held_out', got {text[:80]!r}"
        )
    return PromptSet(str(file), **{split: tuple(texts) for split, texts in content.items()})


def _is_set(content: Mapping[str, Any]) -> bool:
    named = "train" in content and set(content) <= set(SPLITS)
    return named and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        for texts in content.values()
    )


@functools.cache
def _emoji_objects() -> PromptSet:
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
def _emoji_captions() -> PromptSet:
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


_BUILT_IN: Mapping[str, Callable[[], PromptSet]] = {
    "emoji-captions": _emoji_captions,
    "emoji-objects": _emoji_objects,
}
