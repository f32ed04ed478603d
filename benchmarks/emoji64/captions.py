"""Token ids of captions, straight from batches of scenes.

The tokenizer is a byte-level BPE in CLIPTokenizer's files: 1083 ids in CLIP's order (bytes, bytes
that end a word, merges, start, end). Every word of a caption is one token, but "3d", which CLIP's
pre-tokenizer splits into "3" and "d". The end token is also the padding, and it has the highest
id, because transformers' CLIPTextModel pools at the position of the highest id.

The files in ``data/tokenizer`` are the reference and cannot be made again: training a BPE breaks
ties between equally frequent pairs arbitrarily, so a second training gives other ids, and weights
trained with one set of ids fit no other.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTokenizer

from benchmarks.emoji64.scenes import COUNT, RELATION, SceneBatch
from diffusion_gym.emoji64.scenes import (
    BACKGROUNDS,
    COUNTS,
    OBJECTS,
    RELATIONS,
    STYLES,
    article,
    plural,
)

TOKENIZER_FOLDER = Path(__file__).parent / "data" / "tokenizer"
MAX_TOKENS = 24

_ABSENT = -1


def load_tokenizer() -> CLIPTokenizer:
    """The tokenizer of the captions."""
    return CLIPTokenizer.from_pretrained(TOKENIZER_FOLDER)


def _read_vocabulary() -> dict[str, int]:
    text = (TOKENIZER_FOLDER / "vocab.json").read_text(encoding="utf-8")
    vocabulary: dict[str, int] = json.loads(text)
    return vocabulary


VOCABULARY: dict[str, int] = _read_vocabulary()
START_ID = VOCABULARY["<|startoftext|>"]
END_ID = VOCABULARY["<|endoftext|>"]


def word_ids(text: str) -> list[int]:
    """Token ids of words of the grammar, for example of ``"to the left of"`` or ``"3d"``."""
    return [VOCABULARY[f"{word}</w>"] for word in text.replace("3d", "3 d").split()]


class CaptionIds:
    """Writes the captions of a batch of scenes as token ids, without leaving the device.

    The ids equal those of the tokenizer on `diffusion_gym.emoji64.scenes.caption`; making
    thousands of captions within one captured training step needs them without a string.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Builds the tables of words on ``device``."""
        self.device = torch.device(device)
        indices = range(len(OBJECTS))
        self._singular = self._table([item.name for item in OBJECTS])
        self._plural = self._table([plural(index) for index in indices])
        self._style = self._table(STYLES)
        self._link = self._table(["and", *RELATIONS])
        self._count = self._table(["", "", *COUNTS.values()])
        self._colour = self._table(BACKGROUNDS)
        colour_articles = ["an" if name[0] in "aeiou" else "a" for name in BACKGROUNDS]
        self._colour_article = self._table(colour_articles)
        self._article = self._table([article(index) for index in indices])
        self._article_before_style = self._table([article(index, STYLES[0]) for index in indices])
        self._on = self._table(["on"])
        self._background = self._table(["background"])

    def _table(self, texts: Iterable[str]) -> Tensor:
        """One row of ids per text, filled with `_ABSENT` to a common width."""
        rows = [word_ids(text) for text in texts]
        width = max(len(row) for row in rows)
        padded = [row + [_ABSENT] * (width - len(row)) for row in rows]
        return torch.tensor(padded, device=self.device)

    @property
    def empty(self) -> Tensor:
        """Ids of the empty caption, ``[1, 24]``."""
        ids = torch.full((1, MAX_TOKENS), END_ID, device=self.device)
        ids[0, 0] = START_ID
        return ids

    def __call__(self, scenes: SceneBatch) -> Tensor:
        """Ids of the scenes' captions, ``[B, 24]``."""
        is_pair = scenes.is_pair
        link = torch.where(scenes.kind == RELATION, scenes.relation + 1, 0)
        colour = scenes.background
        states_background = scenes.states_background
        everywhere = torch.zeros_like(scenes.kind)
        words = torch.cat(
            [
                self._determiner(scenes),
                self._noun(scenes, 0),
                _where(is_pair, self._link[link]),
                _where(is_pair, self._object_article(scenes, 1)),
                _where(is_pair, self._noun(scenes, 1)),
                _where(states_background, self._on[everywhere]),
                _where(states_background, self._colour_article[colour]),
                _where(states_background, self._colour[colour]),
                _where(states_background, self._background[everywhere]),
            ],
            dim=1,
        )
        return self._frame(words)

    def _determiner(self, scenes: SceneBatch) -> Tensor:
        """The article of the first object, or the number of copies, ``[B, 1]``."""
        return torch.where(
            (scenes.kind == COUNT)[:, None],
            self._count[scenes.count],
            self._object_article(scenes, 0),
        )

    def _object_article(self, scenes: SceneBatch, which: int) -> Tensor:
        objects = scenes.objects[:, which]
        return torch.where(
            scenes.states_style[:, which, None],
            self._article_before_style[objects],
            self._article[objects],
        )

    def _noun(self, scenes: SceneBatch, which: int) -> Tensor:
        """An object's style, where it is stated, and its name, ``[B, words]``."""
        objects = scenes.objects[:, which]
        style = _where(scenes.states_style[:, which], self._style[scenes.styles[:, which]])
        name = torch.where(
            (scenes.kind == COUNT)[:, None], self._plural[objects], self._singular[objects]
        )
        return torch.cat([style, name], 1)

    def _frame(self, words: Tensor) -> Tensor:
        """Moves the words together and puts start, end and padding around them."""
        order = torch.argsort((words == _ABSENT).long(), dim=1, stable=True)
        words = words.gather(1, order)[:, : MAX_TOKENS - 2]
        words = functional.pad(words, (1, 0), value=START_ID)
        words = functional.pad(words, (0, MAX_TOKENS - words.shape[1]), value=_ABSENT)
        return torch.where(words == _ABSENT, END_ID, words)


def _where(condition: Tensor, words: Tensor) -> Tensor:
    return torch.where(condition[:, None], words, _ABSENT)
