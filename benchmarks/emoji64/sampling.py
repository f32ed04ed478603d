"""Draws scenes at random, and captions' facts that differ from a picture's.

Positions and sizes come in two layouts. "Grid" scenes have a few sizes and coarse positions: the
denoiser learns these, and coarse positions make its few-step samples sharper. "Free" scenes have
continuous, slightly wider ranges: the autoencoder, CLIP and the verifier see some of them too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.emoji64.scenes import (
    AND,
    COUNT,
    MAX_SPRITES,
    RELATION,
    SINGLE,
    SceneBatch,
)
from diffusion_gym.emoji64.scenes import BACKGROUNDS, COUNTS, OBJECTS, RELATIONS, STYLES

CENTRE = 32.0
KIND_SHARES = (0.35, 0.15, 0.35, 0.15)
COUNTABLE = tuple(index for index, item in enumerate(OBJECTS) if item.countable)


@dataclass(frozen=True)
class Draws:
    """Random tensors on one device, from a generator or from torch's global one."""

    device: torch.device
    generator: torch.Generator | None = None

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers in [low, high)."""
        drawn = torch.rand(shape, device=self.device, generator=self.generator)
        return low + (high - low) * drawn

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high)."""
        return torch.randint(high, shape, device=self.device, generator=self.generator)

    def choice(self, values: Sequence[float], *shape: int) -> Tensor:
        """Entries of ``values``."""
        return torch.tensor(values, device=self.device)[self.integers(len(values), *shape)]

    def coin(self, probability: float, *shape: int) -> Tensor:
        """True with the given probability."""
        return self.uniform(0, 1, *shape) < probability


def sample_scenes(
    number: int,
    *,
    free: bool = False,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> SceneBatch:
    """Draws scenes with everything that is in them.

    Args:
        number: How many scenes, B.
        free: Continuous positions and sizes instead of the grid's.
        device: Where the tensors are to lie.
        generator: Source of randomness on that device; torch's global one by default.
    """
    draws = Draws(torch.device(device), generator)
    edges = torch.tensor(KIND_SHARES, device=draws.device).cumsum(0)[:-1]
    kind = torch.bucketize(draws.uniform(0, 1, number), edges)
    first = torch.where(
        kind == COUNT,
        draws.choice(COUNTABLE, number),
        draws.integers(len(OBJECTS), number),
    )
    # The second object differs from the first.
    second = (first + 1 + draws.integers(len(OBJECTS) - 1, number)) % len(OBJECTS)
    copies = min(COUNTS) + draws.integers(len(COUNTS), number)
    count = torch.where(kind == COUNT, copies, torch.where(kind == SINGLE, 1, 2))
    relation = draws.integers(len(RELATIONS), number)
    x, y, size = _geometry(draws, kind, relation, free)
    return SceneBatch(
        kind=kind,
        objects=torch.stack([first, second], 1),
        styles=draws.integers(len(STYLES), number, 2),
        background=draws.integers(len(BACKGROUNDS), number),
        relation=relation,
        count=count,
        states_style=draws.coin(0.5, number, 2),
        states_background=draws.coin(0.5, number),
        x=x,
        y=y,
        size=size,
    )


def _geometry(
    draws: Draws, kind: Tensor, relation: Tensor, free: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres in pixels, ``[B, 4]`` each, and sizes, ``[B]``, of every scene's sprites."""
    number = len(kind)
    if free:
        single_size = draws.uniform(0.58, 0.84, number)
        pair_size = draws.uniform(0.37, 0.50, number)
        copy_size = draws.uniform(0.35, 0.46, number)
        single_offset = draws.uniform(-6, 6, number, 2)
        along, across = draws.uniform(14, 18, number, 2), draws.uniform(-6, 6, number, 2)
        jitter = draws.uniform(-2.5, 2.5, number, MAX_SPRITES, 2)
    else:
        single_size = draws.choice((0.64, 0.72, 0.80), number)
        pair_size = draws.choice((0.40, 0.46), number)
        copy_size = draws.choice((0.38, 0.44), number)
        single_offset = draws.choice((-4.0, 0.0, 4.0), number, 2)
        along = draws.choice((14.0, 16.0), number, 2)
        across = draws.choice((-4.0, 0.0, 4.0), number, 2)
        jitter = draws.choice((-2.0, 0.0, 2.0), number, MAX_SPRITES, 2)
    is_pair = (kind == AND) | (kind == RELATION)
    offsets = _quadrants(draws, number) + jitter
    pairs = _pair_offsets(relation, along, across)
    offsets[:, :2] = torch.where(is_pair[:, None, None], pairs, offsets[:, :2])
    offsets[:, 0] = torch.where((kind == SINGLE)[:, None], single_offset, offsets[:, 0])
    size = torch.where(kind == SINGLE, single_size, torch.where(is_pair, pair_size, copy_size))
    centres = CENTRE + offsets
    return centres[..., 0], centres[..., 1], size


def _quadrants(draws: Draws, number: int) -> Tensor:
    """Centres of the four quadrants from the picture's, in random order, ``[B, 4, 2]``."""
    corners = torch.tensor(
        [[-16.0, -16.0], [16.0, -16.0], [-16.0, 16.0], [16.0, 16.0]], device=draws.device
    )
    return corners[draws.uniform(0, 1, number, MAX_SPRITES).argsort(1)]


def _pair_offsets(relation: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """Places the first object left of, right of, above or below the second, ``[B, 2, 2]``."""
    sign = torch.where(relation % 2 == 0, -1.0, 1.0)
    main = torch.stack([sign, -sign], 1) * along
    is_horizontal = (relation < 2)[:, None]
    return torch.stack(
        [torch.where(is_horizontal, main, across), torch.where(is_horizontal, across, main)], -1
    )


def misdescribe(
    scenes: SceneBatch,
    *,
    relation: float = 0.5,
    count: float = 0.5,
    style: float = 0.3,
    background: float = 0.1,
    noun: float = 0.05,
    generator: torch.Generator | None = None,
) -> SceneBatch:
    """What captions that are partly wrong would say about these scenes.

    Text found beside pictures is wrong in part. A denoiser trained on such captions draws crisp
    pictures whose alignment leaves room that reinforcement learning can close. Each fact is drawn
    anew with the given probability. The result is for captions; it must not be rendered.
    """
    draws = Draws(scenes.kind.device, generator)
    number = len(scenes)
    is_count = scenes.kind == COUNT
    any_object = draws.integers(len(OBJECTS), number, 2)
    other = torch.where(is_count[:, None], draws.choice(COUNTABLE, number, 2), any_object)
    objects = torch.where(draws.coin(noun, number, 2), other, scenes.objects)
    is_same = objects[:, :1] == objects[:, 1:]
    redraw_count = draws.coin(count, number) & is_count
    return replace(
        scenes,
        objects=torch.where(is_same, scenes.objects, objects),
        styles=torch.where(
            draws.coin(style, number, 2), draws.integers(len(STYLES), number, 2), scenes.styles
        ),
        background=torch.where(
            draws.coin(background, number),
            draws.integers(len(BACKGROUNDS), number),
            scenes.background,
        ),
        relation=torch.where(
            draws.coin(relation, number), draws.integers(len(RELATIONS), number), scenes.relation
        ),
        count=torch.where(
            redraw_count, min(COUNTS) + draws.integers(len(COUNTS), number), scenes.count
        ),
    )


def hard_negatives(
    scenes: SceneBatch, *, generator: torch.Generator | None = None
) -> tuple[SceneBatch, SceneBatch]:
    """Facts of two captions per scene that are wrong in one stated point.

    Args:
        scenes: What the pictures show.
        generator: Source of randomness; torch's global one by default.

    Returns:
        Wrong structure: the opposite relation, another count, or another object (singles: the
        first, "and": the second). Wrong attribute: another background where it is stated, else
        another style where it is stated, else another count or object.
    """
    draws = Draws(scenes.kind.device, generator)
    return _wrong_structure(scenes, draws), _wrong_attribute(scenes, draws)


def _another(draws: Draws, values: Tensor, number_of_values: int) -> Tensor:
    """Values in [0, number_of_values) that differ from those given."""
    steps = 1 + draws.integers(number_of_values - 1, *values.shape)
    return (values + steps) % number_of_values


def _another_count(draws: Draws, count: Tensor) -> Tensor:
    return min(COUNTS) + _another(draws, count - min(COUNTS), len(COUNTS))


def _another_object(draws: Draws, own: Tensor, partner: Tensor) -> Tensor:
    """Objects that are neither ``own`` nor ``partner``, which differ, ``[B]`` each."""
    to_partner = (partner - own) % len(OBJECTS)
    steps = 1 + draws.integers(len(OBJECTS) - 2, len(own))
    return (own + steps + (steps >= to_partner).long()) % len(OBJECTS)


def _wrong_structure(scenes: SceneBatch, draws: Draws) -> SceneBatch:
    first, second = scenes.objects.unbind(1)
    other_first = _another_object(draws, first, second)
    other_second = _another_object(draws, second, first)
    other_count = _another_count(draws, scenes.count)
    return replace(
        scenes,
        objects=torch.stack(
            [
                torch.where(scenes.kind == SINGLE, other_first, first),
                torch.where(scenes.kind == AND, other_second, second),
            ],
            dim=1,
        ),
        count=torch.where(scenes.kind == COUNT, other_count, scenes.count),
        # Left and right, above and below differ in the last bit. A table of opposites would be
        # copied from the host at every call, which a captured training step does not allow.
        relation=scenes.relation ^ 1,
    )


def _wrong_attribute(scenes: SceneBatch, draws: Draws) -> SceneBatch:
    in_background = scenes.states_background
    in_style = ~in_background & scenes.states_style[:, 0]
    in_count = ~in_background & ~in_style & (scenes.kind == COUNT)
    in_object = ~in_background & ~in_style & (scenes.kind != COUNT)
    first, second = scenes.objects.unbind(1)
    other_first = _another_object(draws, first, second)
    other_styles = _another(draws, scenes.styles[:, 0], len(STYLES))
    other_background = _another(draws, scenes.background, len(BACKGROUNDS))
    other_count = _another_count(draws, scenes.count)
    return replace(
        scenes,
        background=torch.where(in_background, other_background, scenes.background),
        styles=torch.stack(
            [torch.where(in_style, other_styles, scenes.styles[:, 0]), scenes.styles[:, 1]], 1
        ),
        objects=torch.stack([torch.where(in_object, other_first, first), second], 1),
        count=torch.where(in_count, other_count, scenes.count),
    )
