"""One round of final latents: all that learning on the forward process needs of an episode."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.common.episodes import Episodes, RoundBuffer
from agents.common.processes import Rows


@dataclass(kw_only=True)
class FinalImages(Episodes):
    """B images, as latents. Of T steps nothing else is kept: a T-th of what PPO stores.

    Attributes:
        latents: x_T, ``[B, C, h, w]`` float32.
    """

    latents: Tensor


class ImageBuffer(RoundBuffer[FinalImages]):
    """Collects final latents batch by batch and pairs them with noise levels."""

    @property
    def images(self) -> FinalImages:
        """Everything that was added, as one batch."""
        return self.episodes

    def pairs(
        self,
        choices: int,
        per_image: int,
        generator: torch.Generator,
        rows: Rows | None = None,
    ) -> Tensor:
        """Every scored image with some of the noise levels, shuffled, as indices ``[M]``.

        Args:
            choices: Noise levels to choose from, C; pair ``p`` is image ``p // C`` at level
                ``p % C``.
            per_image: Different ones for each image.
            generator: Source of the choice and of the order, on the CPU.
            rows: Which of the rows of all processes these are; the pairs are those of all.
        """
        valid = self.images.valid if rows is None else rows.everyone(self.images.valid)
        scored = valid.cpu().nonzero()
        chosen = torch.rand(len(scored), choices, generator=generator).argsort(1)[:, :per_image]
        pairs = (scored * choices + chosen).flatten()
        order = torch.randperm(len(pairs), generator=generator)
        return pairs[order].to(self.images.latents.device)


@dataclass(frozen=True)
class NoisyPairs:
    """N pairs of an image and a noise level, with their noise.

    Attributes:
        pairs: As `ImageBuffer.pairs` has them, ``[N]``.
        noise: ε, ``[N, C, h, w]``.
    """

    pairs: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def split(self, size: int) -> tuple["NoisyPairs", "NoisyPairs"]:
        """The first so many, and the others."""
        head, tail = slice(size), slice(size, None)
        return (
            NoisyPairs(self.pairs[head], self.noise[head]),
            NoisyPairs(self.pairs[tail], self.noise[tail]),
        )

    def followed_by(self, other: "NoisyPairs") -> "NoisyPairs":
        """These and others."""
        pairs, noise = zip((self.pairs, self.noise), (other.pairs, other.noise), strict=True)
        return NoisyPairs(torch.cat(pairs), torch.cat(noise))


def repacked(parts: Iterable[NoisyPairs], size: int) -> Iterator[NoisyPairs]:
    """The same pairs in parts of one size, but for the last one, which is none if it is empty."""
    held: NoisyPairs | None = None
    for part in parts:
        held = part if held is None or not len(held) else held.followed_by(part)
        while len(held) >= size:
            full, held = held.split(size)
            yield full
    if held is not None and len(held):
        yield held
