"""What `DiffusionNFT` is told, beside its policy and its environment."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from agents.common.round_config import RoundConfig
from diffusion_gym.checks import (
    Count,
    CountOrNone,
    NotNegative,
    Positive,
    Range,
    RateOrSchedule,
    Share,
)
from diffusion_gym.errors import InvalidInputError, shown

OWN_OPTIONS = {"nft": ("beta",), "awm": ("awm_clip_range", "awm_time_power")}
"""Options that mean something to one of the losses only."""


@dataclass(frozen=True)
class NFTConfig(RoundConfig):
    """Rounds, advantages and updates on the forward process (DiffusionNFT, arXiv 2509.16117).

    A round's pairs are those of its final latents and of ``timesteps_per_image`` noise levels each.
    """

    learning_rate: RateOrSchedule = 1e-4
    """AdamW's rate."""

    loss: Literal["nft", "awm"] = "nft"
    """DiffusionNFT's loss of mixed predictions, or advantage-weighted matching: PPO's ratio of
    denoising errors."""

    timesteps_per_image: Count | None = None
    """Noise levels at which each image is trained in an epoch, all different, with fresh noise
    each; by default 4, or as many as the sampler has steps."""

    timesteps: Literal["sampler", "training"] = "sampler"
    """Where they are drawn from, uniformly: the timesteps that images are drawn with, as released,
    or all at which the model was trained."""

    beta: Positive = 0.1
    """DiffusionNFT's β: the predictions that are pulled to good images and pushed from bad ones are
    v_old ± β (v - v_old). The smaller, the further a round may move."""

    awm_clip_range: Positive = 2e-3
    """ε of advantage-weighted matching, on the ratio of exp(-error); 1 as released, with another
    weighting."""

    awm_time_power: Annotated[int, Range(low=0, high=2)] = 0
    """Advantage-weighted matching weighs the error at noise level t by t to this power."""

    decay_after: CountOrNone = 0
    """Rounds until which the weights that draw images are those just trained (d = 0)."""

    decay_rate: NotNegative = 1e-3
    """Growth of d per round after that: w_old ← d w_old + (1 - d) w."""

    decay_limit: Share = 0.5
    """Largest d."""

    reference_coef: NotNegative = 0.0
    """Weight of the squared distance of the velocity from the base model's; with LoRA only, since
    it would take a third copy of the weights otherwise."""

    def __post_init__(self) -> None:
        """Checks every field, and that no option belongs to the other loss.

        Raises:
            InvalidInputError: A value is of another type or outside its range, or means nothing to
                the loss.
        """
        super().__post_init__()
        for field in fields(self):
            value = getattr(self, field.name)
            for loss, options in OWN_OPTIONS.items():
                if field.name in options and loss != self.loss and value != field.default:
                    raise InvalidInputError(
                        f"{field.name} belongs to loss={loss!r}: expected none with "
                        f"{self.loss!r}, got {shown(value)}"
                    )

    def decay(self, rounds: int) -> float:
        """The d after so many rounds: min(rate · (rounds − after), limit), and 0 before.

        The released schedules: none (rate 0), rate .001 up to .5, and, with ``decay_after=75``,
        rate .0075 up to .999. The released code counts optimiser steps, of which a round has one,
        but two where it has the last of these schedules (OCR).
        """
        return min(self.decay_rate * max(rounds - self.decay_after, 0), self.decay_limit)


def unused_options(options: Mapping[str, Any]) -> Collection[str]:
    """What a recommendation or a preset may name in vain: the other loss's, and the reference.

    Args:
        options: Of the whole run, by name.
    """
    loss = options.get("loss", NFTConfig.loss)
    others = [name for own, names in OWN_OPTIONS.items() if own != loss for name in names]
    return [*others, "reference_coef"] if options.get("lora_rank") == 0 else others
