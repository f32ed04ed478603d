"""Lists of prompts, and sets of two lists: to train on and to test on."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from diffusion_gym.errors import InvalidInputError, shown

SPLITS = ("train", "held_out")
"""The parts of a set; the first is the default."""


@dataclass(frozen=True)
class PromptList(Sequence[str]):
    """A list of different prompts.

    Attributes:
        name: Where it comes from, for logs and files.
        texts: The prompts.
        metadata: What its file says of a prompt besides, by its text; prompts of which it says
            nothing are not in it.

    Raises:
        InvalidInputError: There is no prompt, or one is empty, no text, not made of characters
            (NUL, or half of a surrogate pair), or there twice.
    """

    name: str
    texts: tuple[str, ...]
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Checks the texts."""
        if not self.texts:
            raise InvalidInputError(f"{self.name} must hold at least one prompt, got none")
        for position, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                raise InvalidInputError(
                    f"{self.name}: prompt {position} must be a text that is not empty, got "
                    f"{_shown(text)}"
                )
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise InvalidInputError(
                    f"{self.name}: prompt {position} must be made of characters, got NUL or half "
                    f"of a surrogate pair in {_shown(text)}"
                )
        twice = [text for text, times in Counter(self.texts).items() if times > 1]
        if twice:
            raise InvalidInputError(
                f"{self.name}: prompts must differ, got {_some(twice)} twice or more"
            )

    @property
    def content_hash(self) -> str:
        """SHA-256 of the texts and their order, as hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    @property
    def metadata_hash(self) -> str:
        """SHA-256 of the metadata, as hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.metadata, sort_keys=True).encode()).hexdigest()

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
        metadata: What is known of a prompt besides, by its text.

    Raises:
        InvalidInputError: A prompt is in both.
    """

    name: str
    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Checks that nothing is tested that was trained."""
        both = sorted(set(self.train) & set(self.held_out))
        if both:
            raise InvalidInputError(f"{self.name}: train and held_out share {_some(both)}")

    def split(self, split: str) -> PromptList:
        """Returns one part, "train" or "held_out"."""
        texts = {"train": self.train, "held_out": self.held_out}
        own = {text: self.metadata[text] for text in texts[split] if text in self.metadata}
        return PromptList(f"{self.name}:{split}", texts[split], own)


def _shown(text: object) -> str:
    return shown(text, 80)


def _some(texts: Sequence[str]) -> str:
    """The first of the texts, and how many others there are."""
    shown = ", ".join(_shown(text) for text in texts[:3])
    return shown if len(texts) <= 3 else f"{shown} and {len(texts) - 3} others"
