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
        negative_prompts: What guidance leads away from in the images of each prompt, None where it
            has nothing of its own; empty where no prompt has.
        metadata: What its file says of a prompt besides, by its text; prompts of which it says
            nothing are not in it.

    Raises:
        InvalidInputError: There is no prompt, or one is empty, no text, not made of characters
            (NUL, or half of a surrogate pair), or there twice; or there is not one negative prompt
            for each.
    """

    name: str
    texts: tuple[str, ...]
    negative_prompts: tuple[str | None, ...] = ()
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
            self._check_characters(f"prompt {position}", text)
        for position, negative in enumerate(self.negative_prompts):
            self._check_characters(f"negative prompt {position}", negative or "")
        if len(self.negative_prompts) not in (0, len(self.texts)):
            raise InvalidInputError(
                f"{self.name}: expected a negative prompt or None for each of {len(self.texts)} "
                f"prompts, got {len(self.negative_prompts)}"
            )
        twice = [text for text, times in Counter(self.texts).items() if times > 1]
        if twice:
            raise InvalidInputError(
                f"{self.name}: prompts must differ, got {_some(twice)} twice or more"
            )

    def _check_characters(self, what: str, text: str) -> None:
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidInputError(
                f"{self.name}: {what} must be made of characters, got NUL or half "
                f"of a surrogate pair in {_shown(text)}"
            )

    @property
    def content_hash(self) -> str:
        """SHA-256 of the texts, their order, and negative prompts, as hexadecimal digits."""
        content = [self.texts, self.negative_prompts] if self.negative_prompts else self.texts
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

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
        negative_prompts: Those of the prompts that have one, by the prompts.
        metadata: What is known of a prompt besides, by its text.

    Raises:
        InvalidInputError: A prompt is in both.
    """

    name: str
    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    negative_prompts: Mapping[str, str] = field(default_factory=dict)
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
        negatives = tuple(map(self.negative_prompts.get, texts[split]))
        known = negatives if any(negatives) else ()
        return PromptList(f"{self.name}:{split}", texts[split], known, own)


def _shown(text: object) -> str:
    return shown(text, 80)


def _some(texts: Sequence[str]) -> str:
    """The first of the texts, and how many others there are."""
    shown = ", ".join(_shown(text) for text in texts[:3])
    return shown if len(texts) <= 3 else f"{shown} and {len(texts) - 3} others"
