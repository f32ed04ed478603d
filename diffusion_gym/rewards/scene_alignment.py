"""How much of what a caption states does the picture show?"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_gym.emoji64.facts import FACTS
from diffusion_gym.emoji64.scenes import parse
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.rewards.base import RewardResult


class SceneAlignment:
    """Share of the stated facts that the picture shows, in [0, 1].

    The facts are :data:`diffusion_gym.emoji64.facts.FACTS`. Every caption states objects and
    count; relation, background and style count where it states them. The terms are the facts, 1.0
    shown, 0.0 not shown, NaN not stated, and ``all``, 1.0 where every stated fact is shown.

    Args:
        verifier: The network that reads the pictures.
    """

    name = "scene_alignment"
    version = "1"

    def __init__(self, verifier: SceneVerifier) -> None:
        self._verifier = verifier
        self._device = verifier.bg.weight.device

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1].

        Raises:
            InvalidInputError: A prompt is not of the grammar in
                :mod:`diffusion_gym.emoji64.scenes`.
        """
        scenes = [parse(prompt) for prompt in prompts]
        found = self._verifier.detect(images.to(self._device, torch.float32))
        checks = [self._verifier.check(*pair) for pair in zip(found, scenes, strict=True)]
        columns = {
            fact: torch.tensor([float(check.get(fact, torch.nan)) for check in checks])
            for fact in FACTS
        }
        share = torch.stack(list(columns.values())).nanmean(dim=0)
        return RewardResult.from_values(share, {**columns, "all": (share == 1.0).float()})

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Reads prompts without scoring anything.

        Raises:
            InvalidInputError: A prompt is not of the grammar.
        """
        for prompt in prompts:
            parse(prompt)

    def __repr__(self) -> str:
        return "SceneAlignment()"
