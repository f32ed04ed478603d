"""Batches of scenes as tensors: everything that is in a picture, and what its caption states.

A scene of the grammar (`diffusion_gym.emoji64.scenes`) holds what a caption states. A `SceneBatch`
holds whole pictures, thousands of them on one device, and which of their facts are stated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from diffusion_gym.emoji64.scenes import BACKGROUNDS, KINDS, RELATIONS, STYLES, Scene, StatedObject

MAX_SPRITES = 4
SINGLE, AND, RELATION, COUNT = range(len(KINDS))


@dataclass(frozen=True)
class SceneBatch:
    """B scenes.

    Attributes:
        kind: Index into `diffusion_gym.emoji64.scenes.KINDS`, ``[B]``.
        objects: First and second object, ``[B, 2]``; only pairs show the second.
        styles: Style of the first and the second object, ``[B, 2]``.
        background: Colour, ``[B]``.
        relation: Index into `diffusion_gym.emoji64.scenes.RELATIONS`, ``[B]``; the arrangement
            of every pair, stated by the kind "relation" only.
        count: Number of sprites, ``[B]``.
        states_style: Whether the caption states each object's style, bool ``[B, 2]``.
        states_background: Whether the caption states the background, bool ``[B]``.
        x: Centres of the sprites in pixels, ``[B, 4]``; entries from ``count`` on mean nothing.
        y: As ``x``, downwards.
        size: Side of the sprites as a share of the picture's, ``[B]``.
    """

    kind: Tensor
    objects: Tensor
    styles: Tensor
    background: Tensor
    relation: Tensor
    count: Tensor
    states_style: Tensor
    states_background: Tensor
    x: Tensor
    y: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """The scenes of the given rows."""
        return replace(self, **{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    @property
    def is_pair(self) -> Tensor:
        """Whether a scene shows two different objects, bool ``[B]``."""
        return (self.kind == AND) | (self.kind == RELATION)

    def sprites(self) -> tuple[Tensor, Tensor, Tensor]:
        """Object, style and presence of the up to four sprites of each scene, ``[B, 4]`` each."""
        slots = torch.arange(MAX_SPRITES, device=self.kind.device)
        is_second = self.is_pair[:, None] & (slots == 1)
        objects = torch.where(is_second, self.objects[:, 1:], self.objects[:, :1])
        styles = torch.where(is_second, self.styles[:, 1:], self.styles[:, :1])
        return objects, styles, slots < self.count[:, None]

    def to_scenes(self, *, complete: bool = False) -> list[Scene]:
        """The scenes as the grammar describes them.

        Args:
            complete: Describe the styles and backgrounds that the captions leave out as well.
        """
        rows = {item.name: getattr(self, item.name).tolist() for item in fields(self)}
        return [
            _to_scene({name: values[row] for name, values in rows.items()}, complete)
            for row in range(len(self))
        ]


def _to_scene(facts: Mapping[str, Any], complete: bool) -> Scene:
    """The scene of one row of a batch, given as numbers and lists by the names of its fields."""
    kind = KINDS[facts["kind"]]
    stated = tuple(
        StatedObject(index, STYLES[style] if complete or says else None)
        for index, style, says in zip(
            facts["objects"], facts["styles"], facts["states_style"], strict=True
        )
    )
    return Scene(
        kind,
        stated if kind in ("and", "relation") else stated[:1],
        facts["count"],
        RELATIONS[facts["relation"]] if kind == "relation" else None,
        list(BACKGROUNDS)[facts["background"]] if complete or facts["states_background"] else None,
    )


def concatenate(batches: list[SceneBatch]) -> SceneBatch:
    """Joins batches row by row."""
    return SceneBatch(
        **{
            item.name: torch.cat([getattr(batch, item.name) for batch in batches])
            for item in fields(SceneBatch)
        }
    )
