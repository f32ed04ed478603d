"""A reward of one's own: a function of images and prompts, and an object that hands out terms.

python examples/own_reward.py --images 64
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agents.runs.screen import Screen
from agents.runs.settings import TrainSettings
from agents.runs.training import Training
from diffusion_gym import RewardResult, register_reward


@register_reward("colour")
def make_colour(device: str, *, channel: int = 0) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """The simplest reward: how much there is of one colour.

    Args:
        device: Where networks would run; this reward has none.
        channel: Its option: red, green or blue.
    """
    del device
    return lambda images, prompts: images[:, channel].mean(dim=(1, 2))  # [B, 3, H, W] -> [B]


class Contrast:
    """An object can say more: a version, the terms of its value, and what it cannot score."""

    name = "contrast"
    version = "1"

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images ``[B, 3, H, W]`` in [0, 1]; a picture of one colour cannot be scored."""
        del prompts
        grey = images.mean(dim=1).flatten(1)
        dark, light = torch.quantile(grey, torch.tensor([0.05, 0.95], device=grey.device), dim=1)
        values = torch.where(light > dark, light - dark, torch.nan)
        return RewardResult.from_values(values, {"dark": dark, "light": light})


@register_reward("contrast")
def make_contrast(device: str) -> Contrast:
    """The factory of the object."""
    del device
    return Contrast()


def main(arguments: Sequence[str] | None = None) -> Training:
    """Trains on a weighted sum of both; returns the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--eval-prompts", type=int, default=16)
    parser.add_argument("--output", help="run folder; default: a new one below runs/")
    options = parser.parse_args(arguments)
    settings = TrainSettings.of(
        **vars(options),
        reward={"colour": 1.0, "contrast": 0.5},
        reward_options={"colour": {"channel": 2}},
        prompts="emoji-objects",
        learning_rate=4e-4,
    )
    training = Training(settings, Screen())
    training.run()
    return training


if __name__ == "__main__":
    main()
