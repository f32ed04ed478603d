"""Scoring such that one bad image costs one reward and not the run."""

import traceback
import warnings
from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from diffusion_gym.errors import DiffusionGymError, InvalidInputError
from diffusion_gym.rewards.base import (
    Metadata,
    RewardFunction,
    RewardResult,
    as_result,
    call,
)

RANGE_TOLERANCE = 1e-3
"""How far outside [0, 1] a pixel may lie: about a quarter of an 8-bit level, for rounding."""


_answered: WeakValueDictionary[int, RewardFunction] = WeakValueDictionary()
"""Rewards that have returned something once, by identity."""


def score(
    reward: RewardFunction,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Metadata | None = None,
) -> RewardResult:
    """Scores images, and keeps an image that cannot be scored from spoiling the others.

    An image that cannot be scored gets value 0.0 and ``valid`` False: one with pixels that are not
    finite or lie outside [0, 1], which the reward never sees, and one for which the reward raises
    or returns no finite value twice. Images for which it fails are tried once more, together.

    Where a reward raises for a batch, the batch is halved until the images to blame are found: one
    such image of n costs 2 log2(n) calls more, and a reward that raises for all costs 4n in total.
    Each different error is told as a ``RuntimeWarning``. Errors of this package, such as the
    InvalidInputError for a prompt that a reward cannot understand, are raised.

    What is no accident is an error: a reward that has not returned anything yet raises for every
    image, as one with another signature does, or all images it would first see hold NaN, as those
    of a decoder that overflows.

    Args:
        reward: The reward.
        images: Float images [B, 3, H, W].
        prompts: B prompts, one per image.
        metadata: What is known of each prompt besides, for a reward that asks for it.

    Returns:
        The result, on the images' device. Terms are NaN for images the reward never scored; where
        it scored none, there are no terms.

    Raises:
        InvalidInputError: Images are not [B, 3, H, W] floats, their number is not that of the
            prompts, or the reward rejects a prompt or returns something else than it should; or
            nothing can be scored and that is no accident.
    """
    result, failures = score_and_tell(reward, images, prompts, metadata)
    for failure in failures:
        warnings.warn(failure, RuntimeWarning, stacklevel=2)
    return result


def score_and_tell(
    reward: RewardFunction,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Metadata | None = None,
) -> tuple[RewardResult, list[str]]:
    """Scores images as `score` does, and returns what that warns of, a sentence each."""
    # 1. Score the images that are some, and once more those where that failed.
    _check_input(images, prompts, metadata)
    images = images.float()
    rows = _is_picture(images).nonzero().squeeze(1).tolist()
    result = _Rows(reward, images, prompts, metadata)
    result.score(rows)
    result.score([row for row in rows if not result.valid[row]])

    # 2. Say what failed: as an error where that is no accident.
    broken = _broken_images(images)
    if result.answered:
        _remember(reward)
    elif _answered.get(id(reward)) is not reward:
        if result.error is not None:
            raise InvalidInputError(
                f"reward {reward.name!r} raised {_describe(result.error)} for each of {len(rows)} "
                "images when it was first asked; a reward is called as reward(images, prompts), "
                "with images [B, 3, H, W] in [0, 1] and B texts (and metadata=, B dictionaries, "
                "where it has that parameter), and returns B numbers"
            ) from result.error
        if broken and not rows:
            raise InvalidInputError(broken[0])
    device = images.device
    scored = RewardResult(
        result.values.to(device),
        result.valid.to(device),
        {name: column.to(device) for name, column in result.terms.items()},
    )
    return scored, broken + result.failures(rows)


def _check_input(images: Tensor, prompts: Sequence[str], metadata: Metadata | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InvalidInputError(
            f"images must be floats of shape [B, 3, H, W], "
            f"got {images.dtype} of shape {list(images.shape)}"
        )
    if len(prompts) != len(images):
        raise InvalidInputError(
            f"every image needs one prompt, got {len(images)} images and {len(prompts)} prompts"
        )
    if metadata is not None and len(metadata) != len(prompts):
        raise InvalidInputError(
            f"every prompt needs metadata of its own, got {len(metadata)} dictionaries and "
            f"{len(prompts)} prompts"
        )


def _is_picture(images: Tensor) -> Tensor:
    """Tells for each image [B, 3, H, W] whether its pixels are colours; a NaN compares False."""
    pixels = images.flatten(1)
    inside = (pixels >= -RANGE_TOLERANCE) & (pixels <= 1.0 + RANGE_TOLERANCE)
    return inside.all(dim=1)


def _broken_images(images: Tensor) -> list[str]:
    """Says how many images [B, 3, H, W] have pixels that are no numbers, where there are any."""
    broken = int((~images.flatten(1).isfinite().all(dim=1)).sum())
    if not broken:
        return []
    return [
        f"{broken} of {len(images)} images hold NaN or infinity, as the decoder gave them, and "
        "cannot be scored; a decoder that overflows in half precision works with "
        'model_options={"vae_dtype": "float32"}'
    ]


def _remember(reward: RewardFunction) -> None:
    try:
        _answered[id(reward)] = reward
    except TypeError:  # a class with __slots__, whose objects cannot be referred to weakly
        return


def _describe(error: Exception) -> str:
    """Says what was raised and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


class _Rows:
    """The result of a batch, filled in as its rows get scored."""

    def __init__(
        self,
        reward: RewardFunction,
        images: Tensor,
        prompts: Sequence[str],
        metadata: Metadata | None,
    ) -> None:
        self._reward = reward
        self._images = images
        self._prompts = prompts
        self._metadata = metadata
        self.values = torch.zeros(len(images))
        self.valid = torch.zeros(len(images), dtype=torch.bool)
        self.terms: dict[str, Tensor] = {}
        self.errors: dict[str, None] = {}
        self.error: Exception | None = None  # the first of them
        self.answered = False  # whether the reward has returned anything

    def failures(self, rows: list[int]) -> list[str]:
        """What went wrong in scoring these rows, a sentence each."""
        name = self._reward.name
        told = [
            f"reward {name!r} raised {error}; images for which it keeps raising "
            f"get the value 0.0 and count as not scored"
            for error in self.errors
        ]
        if self.answered and not self.valid.any():
            told.append(f"reward {name!r} gave a finite number for none of {len(rows)} images")
        return told

    def score(self, rows: list[int]) -> None:
        """Scores these rows in one call, and in halves where that raises."""
        if not rows:
            return
        try:
            prompts = [self._prompts[row] for row in rows]
            about = None if self._metadata is None else [self._metadata[row] for row in rows]
            output = call(self._reward, self._images[rows], prompts, about)
        except DiffusionGymError:
            raise
        except Exception as error:
            self.errors[_describe(error)] = None
            self.error = self.error or error
            if len(rows) > 1:
                middle = len(rows) // 2
                self.score(rows[:middle])
                self.score(rows[middle:])
            return
        self._store(rows, as_result(output, len(rows), self._reward.name))

    def _store(self, rows: list[int], result: RewardResult) -> None:
        self.answered = True
        values = result.values.cpu()
        valid = result.valid.cpu() & values.isfinite()
        self.values[rows] = torch.where(valid, values, 0.0)
        self.valid[rows] = valid
        for name, column in result.terms.items():
            unknown = torch.full_like(self.values, torch.nan)
            self.terms.setdefault(name, unknown)[rows] = column.cpu()
